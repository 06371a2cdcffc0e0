"""What the memory broker gave up, queue by queue."""

from __future__ import annotations

from collections.abc import Iterator

from fabric.transports.alarm import Alarm
from fabric.transports.backlog import Held
from fabric.transports.base import DeadLetter
from fabric.wire.message import MessageIds


class DeadLetters:
    """Kept until replayed or discarded, oldest first, also when their queue is deleted."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._ids = MessageIds()
        self._kept: dict[str, dict[str, tuple[DeadLetter, Held]]] = {}

    def add(self, queue: str, held: Held, *, reason: str, at: float) -> None:
        """``at`` in seconds since 1970."""
        message = held.message
        letter = DeadLetter(
            id=self._ids.next(),
            queue=queue,
            exchange=message.exchange,
            key=message.key,
            body=message.body,
            content_type=message.content_type,
            headers=message.headers,
            reason=reason,
            attempts=held.attempt,
            history=held.history,
            died_at=at,
        )
        self._alarm.hold(held.size)
        self._kept.setdefault(queue, {})[letter.id] = letter, held

    def of(self, queue: str) -> Iterator[DeadLetter]:
        return (letter for letter, _ in self._kept.get(queue, {}).values())

    def take(self, queue: str, id: str) -> Held | None:
        """Remove one and return it as it was held; None if it is not there."""
        kept = self._kept.get(queue, {})
        if id not in kept:
            return None
        _, held = kept.pop(id)
        if not kept:
            del self._kept[queue]
        self._alarm.release(held.size)
        return held
