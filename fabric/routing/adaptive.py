"""How many handlers should run at once, found from how long they take.

As TCP Vegas finds its window (L. Brakmo and L. Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global Internet",
1995; for services Netflix/concurrency-limits, ``VegasLimit``): what a call takes beyond the best time is time spent in a queue
somewhere behind, so from both follows how many stand there. A few are right, none is waste, many are only delay. The best time
is measured anew from time to time with half as many at once, or a queue that lasts would be taken for the way it has to be.
"""

from __future__ import annotations

from math import log10
from typing import Final

SAMPLES: Final = 20
"""Calls whose average is compared."""
TRUST: Final = 1.05
"""By how much an average may be above the best without meaning anything."""
LOOK_EVERY: Final = 200
"""Comparisons between two measurements of the best time."""
FIRST_LOOK: Final = 3
SATURATED: Final = 0.8
"""With half as many at once a call that takes less than this part of its time shows that the limit is far too high."""


class AdaptiveLimit:
    """The limit of one method.

    Args:
        most: above which it never goes; it begins at a quarter of that.
    """

    __slots__ = ("_best", "_compared", "_count", "_exact", "_last", "_looking", "_most", "_total")

    def __init__(self, most: int) -> None:
        self._most = most
        self._exact = float(max(1, most // 4))
        self._best = self._last = self._total = 0.0
        self._count = self._looking = 0
        self._compared = LOOK_EVERY - FIRST_LOOK

    @property
    def limit(self) -> int:
        return max(1, int(self._exact / 2.0 if self._looking else self._exact))

    def observe(self, seconds: float, running: int) -> None:
        """A call took ``seconds``, and with it ``running`` were under way."""
        self._total += seconds
        self._count += 1
        if self._count < SAMPLES:
            return
        average, self._total, self._count = self._total / self._count, 0.0, 0
        if self._looking:
            self._looking -= 1
            if not self._looking:  # the one before still had calls from the time before
                self._looked(average)
            return
        self._last = average
        self._compared += 1
        if self._compared % LOOK_EVERY == 0:
            self._looking = 2
            return
        if not self._best or average < self._best:
            self._best = average
        self._adjust(average, running)

    def _looked(self, average: float) -> None:
        self._best = average
        if average < SATURATED * self._last and self._exact > 2.0:
            self._exact /= 2.0
            self._last = average
            self._looking = 2

    def _adjust(self, average: float, running: int) -> None:
        waiting = self._exact * (1.0 - min(1.0, TRUST * self._best / max(average, 1e-9)))
        step = max(1.0, log10(self._exact))
        if waiting > 6.0 * step:
            self._exact -= max(step, (waiting - 6.0 * step) / 2.0)
        elif waiting < 3.0 * step and running >= self._exact / 2.0:  # else nobody would notice a higher one
            self._exact += step
        self._exact = max(1.0, min(float(self._most), self._exact))
