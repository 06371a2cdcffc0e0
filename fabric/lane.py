"""One method of a served object: what runs, what waits, and who goes next."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

from fabric.contract import MethodContract
from fabric.routing.adaptive import AdaptiveLimit
from fabric.routing.limits import PriorityQueue
from fabric.wire.message import Priority

T = TypeVar("T", bound=Hashable)

_RECENT: Final = 0.1
"""The part of the average that each handler's time is."""
_LATEST: Final = 60.0
"""Seconds that nobody is asked to stay away for longer than."""


class Lane(Generic[T]):
    """Each method has its own limits, so a slow one never holds up another.

    Attributes:
        name: service and method, for logs.
        handler: the method itself.
        streams: it answers in parts.
        callers: who may call it; None: anybody.
        particular: it is not for everybody, or in parts, so that not every request will do.
        read: makes arguments of a payload; see ``Arguments``.
        running: handlers that run.
        open: handlers that may run at once now, the reserved places left out.
    """

    __slots__ = (
        "_adaptive",
        "_limit",
        "_reserved",
        "_seconds",
        "callers",
        "contract",
        "handler",
        "name",
        "open",
        "particular",
        "read",
        "running",
        "streams",
        "waiting",
    )

    def __init__(self, service: str, contract: MethodContract, handler: Callable[..., Any]) -> None:
        options = contract.options
        self.contract, self.handler = contract, handler
        self.name = f"{service}.{contract.name}"
        self.streams, self.callers = contract.streams, options.callers
        self.particular = self.streams or self.callers is not None
        self.read = contract.arguments.read
        self.running = 0
        self.waiting: PriorityQueue[T] = PriorityQueue(options.queue)
        self._reserved = options.concurrency // 10 if options.reserved is None else options.reserved
        self._adaptive = AdaptiveLimit(options.concurrency) if options.adaptive else None
        self._seconds = 0.0
        self._allow(self._adaptive.limit if self._adaptive is not None else options.concurrency)

    @property
    def limit(self) -> int:
        """Handlers that may run at once now."""
        return self._limit

    def _allow(self, limit: int) -> None:
        self._limit, self.open = limit, max(1, limit - self._reserved)

    def has_room(self, priority: Priority) -> bool:
        """Whether one of that priority may start without waiting."""
        return self.running < self.open or (priority is Priority.CRITICAL and self.running < self._limit)

    def following(self) -> T | None:
        """Who may start now, of those that wait."""
        if not self.waiting.size or self.running >= self._limit:
            return None
        if self.running < self.open:
            return self.waiting.take()
        return self.waiting.take_critical()

    def ended(self, seconds: float) -> None:
        """A handler took so long. It still counts as running."""
        self._seconds += _RECENT * (seconds - self._seconds) if self._seconds else seconds
        if self._adaptive is not None:
            self._adaptive.observe(seconds, self.running)
            self._allow(self._adaptive.limit)

    @property
    def retry_after(self) -> float:
        """Seconds after which what waits now should have been started."""
        return min(_LATEST, self._seconds * max(1, self.waiting.size) / self._limit)
