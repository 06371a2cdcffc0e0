"""How long an instance takes lately: the exponentially weighted moving average that believes bad news at once.

As Finagle's Peak EWMA (twitter/finagle, ``PeakEwma.scala``): a time above the average replaces it, one below pulls it down
with the time constant ``TAU``, so an instance that turns slow is left alone after one call and comes back gradually.
"""

from __future__ import annotations

from math import exp

TAU = 5.0
"""Seconds after which an old average counts for about a third. Less comes back sooner, more forgets a peak later."""


class PeakEwma:
    """One instance's. Times in monotonic seconds of whoever calls."""

    __slots__ = ("_at", "_value", "count")

    def __init__(self) -> None:
        self._value = self._at = 0.0
        self.count = 0

    def observe(self, seconds: float, now: float, calls: int = 1) -> None:
        """A call that ended at ``now`` took ``seconds``; of several the one that took longest."""
        if seconds >= self._value:
            self._value = seconds
        else:
            weight = exp((self._at - now) / TAU)
            self._value = self._value * weight + seconds * (1.0 - weight)
        self._at = now
        self.count += calls

    def value(self, now: float) -> float:
        """Seconds. While nothing is heard it fades, so that an instance that was slow once is tried again."""
        if not self._value:
            return 0.0
        return self._value * exp((self._at - now) / TAU)
