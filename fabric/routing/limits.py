"""How much runs at once and how much may wait: pure book-keeping, no tasks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from fabric.wire.message import Priority

T = TypeVar("T", bound=Hashable)

FLOOR: Final = 16
"""Every sixteenth start goes past the critical ones that wait, so that a flood of them makes the rest slow, not stop."""
WEIGHTS: Final = (1, 3, 9)
"""How often low, normal and high start against each other while all of them wait."""
_STRIDES: Final = tuple(9 // weight for weight in WEIGHTS)


class PriorityQueue(Generic[T]):
    """What waits for a free place. Critical goes first, but for a floor; the others share by weight; within one class it is
    first come, first served.

    The sharing is stride scheduling (C. Waldspurger and W. Weihl, "Stride Scheduling", 1995): exact over any stretch in which
    the same classes wait, and a class that was away has saved nothing up.

    Full, it sheds the newest of the lowest priority: the oldest has waited longest, and the highest matters most.

    An item may be in it once. Each operation takes the same time however many wait, also leaving out of turn.

    Attributes:
        size: how many wait.
    """

    __slots__ = ("_classes", "_limit", "_now", "_passes", "_taken", "size")

    def __init__(self, limit: int) -> None:
        self._classes: tuple[OrderedDict[T, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._passes = [0] * len(WEIGHTS)
        self._limit = limit
        self._now = self.size = self._taken = 0

    def __len__(self) -> int:
        return self.size

    def put(self, priority: Priority, item: T) -> T | None:
        """Queue ``item``. Returns what has to be refused for it, which may be ``item`` itself."""
        shed: T | None = None
        if self.size >= self._limit:
            lower = next((queue for queue in self._classes[:priority] if queue), None)
            if lower is None:
                return item
            shed, _ = lower.popitem()
            self.size -= 1
        queue = self._classes[priority]
        if not queue and priority is not Priority.CRITICAL:
            self._passes[priority] = max(self._passes[priority], self._now)
        queue[item] = None
        self.size += 1
        return shed

    def take(self) -> T | None:
        """What goes next, or None."""
        if not self.size:
            return None
        self._taken += 1
        critical = self._classes[Priority.CRITICAL]
        if critical and (self._taken % FLOOR or self.size == len(critical)):
            return self._first(critical)
        classes, passes = self._classes, self._passes
        rank = min((rank for rank in (2, 1, 0) if classes[rank]), key=passes.__getitem__)
        self._now = passes[rank]
        passes[rank] += _STRIDES[rank]
        return self._first(classes[rank])

    def take_critical(self) -> T | None:
        """The next critical one, or None."""
        critical = self._classes[Priority.CRITICAL]
        return self._first(critical) if critical else None

    def remove(self, item: T) -> bool:
        """Take it out of its turn. False: it is not there."""
        for queue in self._classes:
            if item in queue:
                del queue[item]
                self.size -= 1
                return True
        return False

    def clear(self) -> list[T]:
        """Everything that waits, highest priority first; nothing waits afterwards."""
        items = [item for queue in reversed(self._classes) for item in queue]
        for queue in self._classes:
            queue.clear()
        self.size = 0
        return items

    def _first(self, queue: OrderedDict[T, None]) -> T:
        item, _ = queue.popitem(last=False)
        self.size -= 1
        return item
