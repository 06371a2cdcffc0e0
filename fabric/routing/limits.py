"""How much runs at once and how much may wait: pure book-keeping, no tasks."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from fabric.wire.message import Priority

T = TypeVar("T")

LOW_FLOOR: Final = 16
"""Every sixteenth start goes to the lowest class that waits, so that low is slow under load but never starves."""


class PriorityQueue(Generic[T]):
    """What waits for a free place: higher priority first, first come first served within one, and a floor for the lowest.

    Full, it sheds the newest of the lowest priority: the oldest has waited longest, and the highest matters most.
    """

    __slots__ = ("_classes", "_limit", "_size", "_taken")

    def __init__(self, limit: int) -> None:
        self._classes: tuple[deque[T], ...] = tuple(deque() for _ in Priority)
        self._limit = limit
        self._size = self._taken = 0

    def __len__(self) -> int:
        return self._size

    def put(self, priority: Priority, item: T) -> T | None:
        """Queue ``item``. Returns what has to be refused for it, which may be ``item`` itself."""
        if self._size < self._limit:
            self._classes[priority].append(item)
            self._size += 1
            return None
        for lower in range(priority):
            if self._classes[lower]:
                shed = self._classes[lower].pop()
                self._classes[priority].append(item)
                return shed
        return item

    def take(self) -> T | None:
        """What goes next, or None."""
        if not self._size:
            return None
        self._taken += 1
        self._size -= 1
        classes = self._classes if self._taken % LOW_FLOOR == 0 else reversed(self._classes)
        return next(queue.popleft() for queue in classes if queue)

    def remove(self, item: T) -> bool:
        """Take it out of its turn. False: it is not there."""
        for queue in self._classes:
            if item in queue:
                queue.remove(item)
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
