"""The messages of one queue of the memory broker, in the order in which they leave it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fabric.wire.message import Priority

OVERHEAD = 300
"""About what a held message takes in bytes besides its body."""


class Published(NamedTuple):
    """A message as it was published. Shared by all queues that took it.

    ``expires_at`` is on the broker's monotonic clock; None never expires.
    """

    exchange: str
    key: str
    body: bytes
    content_type: str
    priority: Priority
    message_id: str | None
    headers: Mapping[str, Any]
    user_id: str | None
    expires_at: float | None


class Held:
    """A message in one queue.

    Attributes:
        sequence: its place in the queue; a redelivery returns to it.
        attempt: deliveries so far.
        history: one entry a failure, oldest first.
    """

    __slots__ = ("attempt", "history", "message", "sequence")

    def __init__(self, message: Published) -> None:
        self.message = message
        self.sequence = 0
        self.attempt = 0
        self.history: tuple[dict[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """About the bytes that it takes."""
        return len(self.message.body) + OVERHEAD

    def expired(self, now: float) -> bool:
        """Whether its time passed before its first delivery."""
        expires_at = self.message.expires_at
        return expires_at is not None and now >= expires_at and not self.attempt


class Backlog:
    """Higher priority first, first come first within one."""

    __slots__ = ("_count", "_lanes", "_sequence", "dropped")

    def __init__(self) -> None:
        self._lanes: tuple[deque[Held], ...] = tuple(deque() for _ in Priority)
        self._count = 0
        self._sequence = 0
        self.dropped: list[Held] = []
        """Expired ones that ``pop`` passed by, for the owner to take away."""

    def __len__(self) -> int:
        return self._count

    def push(self, held: Held) -> None:
        """To the end of its priority."""
        self._sequence += 1
        held.sequence = self._sequence
        self._lanes[held.message.priority].append(held)
        self._count += 1

    def restore(self, held: Held) -> None:
        """To the place it had."""
        lane = self._lanes[held.message.priority]
        before = []
        while lane and lane[0].sequence < held.sequence:
            before.append(lane.popleft())
        lane.appendleft(held)
        lane.extendleft(reversed(before))
        self._count += 1

    def pop(self, now: float) -> Held | None:
        """The next one. Messages never delivered that have expired are passed by into ``dropped``."""
        for lane in reversed(self._lanes):
            while lane:
                held = lane.popleft()
                self._count -= 1
                if not held.expired(now):
                    return held
                self.dropped.append(held)
        return None

    def drop_expired(self, now: float) -> None:
        """Move the expired ones at the head of each priority into ``dropped``."""
        for lane in self._lanes:
            while lane and lane[0].expired(now):
                self._count -= 1
                self.dropped.append(lane.popleft())

    def drain(self) -> Iterator[Held]:
        """Empty it."""
        for lane in reversed(self._lanes):
            while lane:
                self._count -= 1
                yield lane.popleft()
