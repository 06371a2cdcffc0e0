"""One queue of the memory broker: what it holds, and who takes from it in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from fabric.transports.alarm import Alarm
from fabric.transports.backlog import Backlog, Held, Published
from fabric.transports.exchange import Exchange


class Taker(Protocol):
    """A consumer, as its queue sees it."""

    @property
    def ready(self) -> bool:
        """Whether it has room for one more."""
        ...

    def take(self, held: Held) -> None:
        """Never calls back into the queue."""
        ...

    def cancelled(self) -> None:
        """The queue was deleted under it."""
        ...


class Queue:
    """Shared by its takers in turn, as long as each has room.

    Args:
        name: its key on the default exchange.
        owner: the session that it goes with; None for a durable queue.
        max_attempts: deliveries of one message; None without bound.
        single: all goes to its first taker, as long as that is there.
        most_bytes: what it holds at most; then it refuses. None without bound.
        alarm: told of what is held.
        now: seconds on the broker's monotonic clock.
    """

    def __init__(
        self,
        name: str,
        *,
        owner: object | None,
        max_attempts: int | None,
        most_bytes: int | None,
        alarm: Alarm,
        now: Callable[[], float],
        single: bool = False,
    ) -> None:
        self.name, self.owner, self.max_attempts = name, owner, max_attempts
        self.single, self.deleted = single, False
        self._successor: Queue | None = None
        self._most_bytes, self._alarm, self._now = most_bytes, alarm, now
        self._bytes = 0
        self._backlog = Backlog()
        self._takers: deque[Taker] = deque()
        self._bound: dict[tuple[str, str], Exchange[Queue]] = {}

    @property
    def waiting(self) -> int:
        """Messages not yet taken."""
        return len(self._backlog)

    @property
    def takers(self) -> int:
        return len(self._takers)

    def accept(self, message: Published) -> bool:
        """Put at the end. False: it is full."""
        if not self._backlog and (taker := self._next_taker()) is not None:
            taker.take(Held(message))
            return True
        if self._most_bytes is not None and self._bytes >= self._most_bytes:
            self._backlog.drop_expired(self._now())
            self._forget_dropped()
            if self._bytes >= self._most_bytes:
                return False
        self.append(Held(message))
        return True

    def append(self, held: Held) -> None:
        """Put at the end, whatever it holds already; where another queue has succeeded it, of that."""
        if self.deleted:
            if self._successor is not None:
                self._successor.append(held)
            return
        self._account(held.size)
        self._backlog.push(held)
        self.pump()

    def restore(self, held: Held) -> None:
        """Put back where it was, to be delivered again; where another queue has succeeded it, at the end of that."""
        if self.deleted:
            self.append(held)
            return
        self._account(held.size)
        self._backlog.restore(held)

    def pump(self) -> None:
        """Hand out what can be handed out."""
        backlog = self._backlog
        while backlog and (taker := self._next_taker()) is not None:
            held = backlog.pop(self._now())
            if held is not None:
                self._account(-held.size)
                taker.take(held)
            self._forget_dropped()

    def add(self, taker: Taker) -> None:
        self._takers.append(taker)

    def remove(self, taker: Taker) -> None:
        """Idempotent."""
        if taker in self._takers:
            self._takers.remove(taker)

    def bind(self, exchange: Exchange[Queue], key: str) -> None:
        """Idempotent."""
        exchange.bind(self, key)
        self._bound[exchange.name, key] = exchange

    def unbind(self, exchange: Exchange[Queue], key: str) -> None:
        """Idempotent."""
        exchange.unbind(self, key)
        self._bound.pop((exchange.name, key), None)

    def delete(self) -> None:
        """Gone from its exchanges, with what it held; its takers are told."""
        self.deleted = True
        for (_, key), exchange in self._bound.items():
            exchange.unbind(self, key)
        self._bound.clear()
        for held in self._backlog.drain():
            self._account(-held.size)
        takers, self._takers = self._takers, deque()
        for taker in takers:
            taker.cancelled()

    def hand_over(self, successor: Queue) -> None:
        """Be deleted, with all that it holds, and all that it is given still, going to ``successor``."""
        waiting = list(self._backlog.drain())
        for held in waiting:
            self._account(-held.size)
        self.delete()
        self._successor = successor
        for held in waiting:
            successor.append(held)

    def _next_taker(self) -> Taker | None:
        takers = self._takers
        if self.single:
            return takers[0] if takers and takers[0].ready else None
        for _ in range(len(takers)):
            taker = takers[0]
            takers.rotate(-1)
            if taker.ready:
                return taker
        return None

    def _forget_dropped(self) -> None:
        dropped = self._backlog.dropped
        while dropped:
            self._account(-dropped.pop().size)

    def _account(self, size: int) -> None:
        self._bytes += size
        if size > 0:
            self._alarm.hold(size)
        else:
            self._alarm.release(-size)
