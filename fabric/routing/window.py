"""Counting over the last seconds, in steps."""

from __future__ import annotations

STEPS = 10


class Window:
    """Calls, failures and slow calls of the last ``seconds``, to within a tenth of them.

    Args:
        seconds: looked back on. More is steadier, less forgets sooner.
    """

    __slots__ = ("_at", "_calls", "_failures", "_slot", "_slow", "_step", "calls", "failures", "slow")

    def __init__(self, seconds: float) -> None:
        self._step = seconds / STEPS
        self.clear()

    def clear(self) -> None:
        self._at = self._slot = 0
        self._calls, self._failures, self._slow = [0] * STEPS, [0] * STEPS, [0] * STEPS
        self.calls = self.failures = self.slow = 0

    def add_good(self, now: float, calls: int = 1) -> None:
        """As ``add``, of some that neither failed nor were slow."""
        at = int(now / self._step)
        if at != self._at:
            self._advance(at)
        self._calls[self._slot] += calls
        self.calls += calls

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """One call that ended at ``now``, in monotonic seconds."""
        self.add_good(now)
        slot = self._slot
        if failed:
            self._failures[slot] += 1
            self.failures += 1
        if slow:
            self._slow[slot] += 1
            self.slow += 1

    def _advance(self, at: int) -> None:
        for step in range(max(self._at + 1, at - STEPS + 1), at + 1):
            slot = step % STEPS
            self.calls -= self._calls[slot]
            self.failures -= self._failures[slot]
            self.slow -= self._slow[slot]
            self._calls[slot] = self._failures[slot] = self._slow[slot] = 0
        self._at, self._slot = at, at % STEPS
