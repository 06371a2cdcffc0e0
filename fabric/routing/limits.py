"""How much runs at once and how much may wait: pure book-keeping, no tasks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from fabric.wire.message import Priority

T = TypeVar("T", bound=Hashable)

LOW_FLOOR: Final = 16
"""Every sixteenth start goes to a class below the highest that waits, so that they are slow under load but never starve."""


class PriorityQueue(Generic[T]):
    """What waits for a free place: higher priority first, first come first served within one, and a floor for the others.

    Full, it sheds the newest of the lowest priority: the oldest has waited longest, and the highest matters most.

    An item may be in it once. Each operation takes the same time however many wait, also leaving out of turn.
    """

    __slots__ = ("_classes", "_floor_at", "_limit", "_size", "_taken")

    def __init__(self, limit: int) -> None:
        self._classes: tuple[OrderedDict[T, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._floor_at = [0] * len(Priority)
        self._limit = limit
        self._size = self._taken = 0

    def __len__(self) -> int:
        return self._size

    def put(self, priority: Priority, item: T) -> T | None:
        """Queue ``item``. Returns what has to be refused for it, which may be ``item`` itself."""
        if self._size < self._limit:
            self._classes[priority][item] = None
            self._size += 1
            return None
        for lower in range(priority):
            if self._classes[lower]:
                shed, _ = self._classes[lower].popitem()
                self._classes[priority][item] = None
                return shed
        return item

    def take(self) -> T | None:
        """What goes next, or None."""
        if not self._size:
            return None
        self._taken += 1
        self._size -= 1
        waiting = [rank for rank, queue in enumerate(self._classes) if queue]
        rank = waiting[-1]
        if self._taken % LOW_FLOOR == 0 and len(waiting) > 1:
            # The one whose last such turn was longest ago: taking always the lowest would starve the classes in between.
            rank = min(waiting[:-1], key=self._floor_at.__getitem__)
            self._floor_at[rank] = self._taken
        item, _ = self._classes[rank].popitem(last=False)
        return item

    def remove(self, item: T) -> bool:
        """Take it out of its turn. False: it is not there."""
        for queue in self._classes:
            if item in queue:
                del queue[item]
                self._size -= 1
                return True
        return False

    def clear(self) -> list[T]:
        """Everything that waits, highest priority first; nothing waits afterwards."""
        items = [item for queue in reversed(self._classes) for item in queue]
        for queue in self._classes:
            queue.clear()
        self._size = 0
        return items
