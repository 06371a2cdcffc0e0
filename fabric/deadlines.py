"""Timers that are nearly always taken back: one call has one, and nearly every call ends before it is due.

An event loop's own timers cost as much as sending the message. Here adding and removing is a set's, and one timer of the loop
serves them all; what is due is told at most one tick late (G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels",
1987, scheme 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

TICK = 0.01
"""Seconds by which a deadline may be told too late, never too early."""


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
