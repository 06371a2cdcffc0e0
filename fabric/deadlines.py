"""Timers that are nearly always taken back: one call has one, and nearly every call ends before it is due.

An event loop's own timers cost as much as sending the message. Here one timer of the loop serves them all, and what is due is
told a little late. ``Deadlines`` keeps them itself; adding and removing is a set's (G. Varghese and T. Lauck, "Hashed and
Hierarchical Timing Wheels", 1987, scheme 6). ``Lookout`` is for what somebody keeps anyway: it costs one comparison to begin
with and nothing to end, and now and then a look through all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import inf
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")

TICK = 0.01
"""Seconds by which a deadline may be told too late, never too early."""
LOOK: Final = 2e-6
"""Seconds for each thing in it by which a ``Lookout`` may be later than that, so that it looks for a small part of the time."""

_due: Final = attrgetter("due")


class Deadlines(Generic[T]):
    """The deadlines of many things. ``due`` is called in the event loop with each that was not removed in time."""

    __slots__ = ("_armed", "_due", "_slots", "_timer")

    def __init__(self, due: Callable[[T], None]) -> None:
        self._due = due
        self._slots: dict[int, set[T]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def add(self, thing: T, at: float) -> None:
        """``at`` is in the loop's time. A thing has one deadline at a time."""
        number = int(at / TICK) + 1
        slot = self._slots.get(number)
        if slot is not None:
            slot.add(thing)
            return
        self._slots[number] = {thing}
        if self._timer is None or number < self._armed:
            self._arm(number)

    def remove(self, thing: T, at: float) -> None:
        """Take it back; ``at`` as it was added. Does nothing once it was due."""
        number = int(at / TICK) + 1
        slot = self._slots.get(number)
        if slot is not None:
            slot.discard(thing)
            if not slot:
                del self._slots[number]

    def _arm(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = number
        self._timer = asyncio.get_running_loop().call_at(number * TICK, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for number in sorted(number for number in self._slots if number * TICK <= now):
            for thing in self._slots.pop(number, ()):
                self._due(thing)
        if self._slots and self._timer is None:
            self._arm(min(self._slots))

    def close(self) -> None:
        """Forget them all."""
        self._slots.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Timed(Protocol):
    """
    Attributes:
        due: in the loop's time. Set to infinity when it was told.
    """

    due: float


W = TypeVar("W", bound=Timed)


class Lookout(Generic[W]):
    """The deadlines of what ``things`` holds at the time. ``due`` is called in the event loop with each that is there by then.

    Whoever puts a thing in calls ``expect`` if it is due before ``next``. Nobody need say that one was taken out.

    Attributes:
        next: when it looks again; nothing that was there at the last look is due earlier.
    """

    __slots__ = ("_tell", "_things", "_timer", "next")

    def __init__(self, things: Mapping[Any, W], due: Callable[[W], None]) -> None:
        self._things, self._tell = things, due
        self._timer: asyncio.TimerHandle | None = None
        self.next = inf

    def expect(self, at: float) -> None:
        """Look at that time, in the loop's, if not before."""
        if at >= self.next:
            return
        if self._timer is not None:
            self._timer.cancel()
        self.next = at
        self._timer = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        self._timer, self.next = None, inf
        now = asyncio.get_running_loop().time()
        for thing in [thing for thing in self._things.values() if thing.due <= now]:
            thing.due = inf
            self._tell(thing)
        first = min(map(_due, self._things.values()), default=inf)
        if first < inf:
            self.expect(max(first, now + TICK + LOOK * len(self._things)))

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.next = None, -inf
