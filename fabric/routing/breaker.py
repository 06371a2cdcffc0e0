"""Not calling what fails: closed, open, half-open.

The states are aiobreaker's. The rest is our own, because it counts consecutive failures only, lets every concurrent caller
through when half-open, does not know of cancellation, and goes by the wall clock: here are a rolling window, an exact number
of probes, and the monotonic time of whoever calls. Nothing in here waits, so evidence and decision are one step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from aiobreaker.state import CircuitBreakerState

from fabric.routing.breaker_policy import BreakerPolicy
from fabric.routing.window import Window

CLOSED: Final = CircuitBreakerState.CLOSED
OPEN: Final = CircuitBreakerState.OPEN
HALF_OPEN: Final = CircuitBreakerState.HALF_OPEN

BACK_SOON: Final = 0.1
"""Seconds to suggest while probes are under way: nobody knows when they end."""


class Breaker:
    """One breaker. All times are monotonic seconds, given by the caller, never going back.

    A call asks for a permit first and settles it however it ends: what happened under an earlier state does not count in a
    later one, and a probe that is cancelled gives its place to another.

    Args:
        chance: adds up to a tenth to the time that it stays open, so that many hubs do not come back in step.

    Attributes:
        state: of the three; changed here only.
        permit: what ``acquire`` would return as long as it is closed; otherwise 0, and asking is needed.
        policy: what it goes by; see ``adopt``.
        slow_from: seconds from which a call counts as slow; None: none does. The policy's, unless its owner knows better.
    """

    __slots__ = (
        "_chance",
        "_generation",
        "_in_a_row",
        "_isolated",
        "_probing",
        "_streak",
        "_succeeded",
        "_until",
        "_window",
        "permit",
        "policy",
        "slow_from",
        "state",
    )

    def __init__(self, policy: BreakerPolicy, chance: random.Random | None = None) -> None:
        self.policy, self._chance = policy, chance
        self._window = Window(policy.window)
        self.state = CLOSED
        self._generation = self.permit = 1
        self._until = 0.0
        self._streak = 0
        self._in_a_row = self._probing = self._succeeded = 0
        self._isolated = False
        self.slow_from = policy.slow_call

    @property
    def isolated(self) -> bool:
        return self._isolated

    def adopt(self, policy: BreakerPolicy) -> None:
        """Go by another policy from now on. The state stays; the window begins anew if its length changes."""
        if policy.window != self.policy.window:
            self._window = Window(policy.window)
        self.policy, self.slow_from = policy, policy.slow_call

    def permits(self, now: float) -> bool:
        """Whether a permit would be given now."""
        if self.state is CLOSED:
            return True
        if self.state is OPEN:
            return now >= self._until and not self._isolated
        return self._probing + self._succeeded < self.policy.probes

    def acquire(self, now: float) -> int:
        """A permit for one call, to be settled; 0: it must not be made."""
        if self.state is CLOSED:
            return self._generation
        if not self.permits(now):
            return 0
        if self.state is OPEN:
            self._turn(HALF_OPEN)
        self._probing += 1
        return self._generation

    def settle(self, permit: int, now: float, *, ok: bool | None, seconds: float) -> None:
        """How the call that had ``permit`` ended.

        Args:
            ok: None when that says nothing of the callee, such as a cancelled call.
            seconds: that it took.
        """
        if permit != self._generation:
            return
        if self.state is CLOSED:
            if ok is not None:
                self._count(now, failed=not ok, seconds=seconds)
            return
        self._probing -= 1
        if ok is None:
            return
        if not ok or (self.slow_from is not None and seconds >= self.slow_from):
            self._streak += 1
            self._open(now)
            return
        self._succeeded += 1
        if self._succeeded >= self.policy.probes:
            self._streak = 0
            self._turn(CLOSED)

    def settle_good(self, permit: int, now: float, seconds: Sequence[float]) -> None:
        """As ``settle`` for several calls with that permit that ended well at the same time, each after so many seconds."""
        if permit == self._generation and self.state is CLOSED and (self.slow_from is None or max(seconds) < self.slow_from):
            self._in_a_row = 0
            self._window.add_good(now, len(seconds))
            return
        for each in seconds:
            self.settle(permit, now, ok=True, seconds=each)

    def isolate(self) -> None:
        """Open it until ``restore``, whatever happens."""
        self._isolated = True
        self._until = float("inf")
        self._turn(OPEN)

    def restore(self) -> None:
        """Close it, whatever happened."""
        self._isolated = False
        self._streak = 0
        self._turn(CLOSED)

    def retry_after(self, now: float) -> float:
        """Seconds after which asking again may be answered otherwise; 0 when it may now."""
        if self.permits(now):
            return 0.0
        if self.state is HALF_OPEN:
            return BACK_SOON
        return self.policy.open_at_most if self._isolated else self._until - now

    def _count(self, now: float, *, failed: bool, seconds: float) -> None:
        policy, window = self.policy, self._window
        slow = self.slow_from is not None and seconds >= self.slow_from
        window.add(now, failed=failed, slow=slow)
        if not failed and not slow:
            self._in_a_row = 0
            return
        self._in_a_row = self._in_a_row + 1 if failed else 0
        if 0 < policy.consecutive_failures <= self._in_a_row or (
            window.calls >= policy.minimum_calls
            and (
                window.failures >= policy.failure_rate * window.calls or (slow and window.slow >= policy.slow_rate * window.calls)
            )
        ):
            self._open(now)

    def _open(self, now: float) -> None:
        period = min(self.policy.open_at_most, self.policy.open_for * 2.0 ** min(self._streak, 40))
        self._until = now + period * (1.0 + 0.1 * self._chance.random() if self._chance is not None else 1.0)
        self._turn(OPEN)

    def _turn(self, state: CircuitBreakerState) -> None:
        self.state = state
        self._generation += 1
        self.permit = self._generation if state is CLOSED else 0
        self._in_a_row = self._probing = self._succeeded = 0
        if state is CLOSED:
            self._window.clear()
