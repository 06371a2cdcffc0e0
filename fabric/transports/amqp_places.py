"""How many messages of one consumer are under way, whatever bodies they came in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from fabric.transports.amqp_parts import AmqpPart, Single

PATIENCE = 0.25
"""Seconds in which the parts of one body are to be begun. What is not goes back to the queue, where others may take it."""


class Places:
    """At most so many messages under way at once: the broker's prefetch counts bodies.

    Args:
        count: places.
        begin: takes a message that has got one.
        give_back: takes parts that waited too long behind messages that are slow.
    """

    def __init__(self, count: int, begin: Callable[[Single], None], give_back: Callable[[list[AmqpPart]], None]) -> None:
        self._free = count
        self._begin, self._give_back = begin, give_back
        self._waiting: deque[Single] = deque()
        self._due = False
        self._watch: asyncio.TimerHandle | None = None
        self._closing = False

    def take(self, message: Single) -> None:
        """Begin it now, or when those before it have begun and there is a place."""
        if self._free and not self._waiting:
            self._free -= 1
            self._begin(message)
        elif self._closing and isinstance(message, AmqpPart):
            self._give_back([message])
        else:
            self._waiting.append(message)
            self._look_after(self._waiting[0])

    def leave(self) -> None:
        """One that had begun is settled."""
        self._free += 1
        if self._waiting and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._due = False
        while self._free and self._waiting:
            self._free -= 1
            self._begin(self._waiting.popleft())

    def _look_after(self, first: Single) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(PATIENCE, self._look, first.tag)

    def _look(self, tag: int) -> None:
        """Whether the body that was first is still being begun."""
        self._watch = None
        if not self._waiting:
            return
        if self._waiting[0].tag != tag:
            self._look_after(self._waiting[0])
        elif parts := self._take_parts():
            self._give_back(parts)

    def _take_parts(self) -> list[AmqpPart]:
        parts = [message for message in self._waiting if isinstance(message, AmqpPart)]
        self._waiting = deque(message for message in self._waiting if not isinstance(message, AmqpPart))
        return parts

    def close(self) -> list[AmqpPart]:
        """Let nothing wait any more that can go back alone: returns what did."""
        self._closing = True
        return self._take_parts()

    def drop(self) -> None:
        """Nothing is begun any more."""
        self._waiting.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
