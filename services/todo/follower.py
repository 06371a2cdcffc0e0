"""Reading the store's events in order, from the events as they are published and from the store where one is missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from fabric.errors import FabricError
from fabric.tasks import Tasks
from services.todo.contracts import EventPage, RecordedEvent

_log = logging.getLogger(__name__)

PAGE = 200

Reader = Callable[[int, int], Awaitable[EventPage]]
"""``(after, limit)`` to a page of all events, as ``EventStore.read_all``."""

Applier = Callable[[Sequence[RecordedEvent], int], Awaitable[int]]
"""Takes events that follow on a position without a gap, and answers the position that is reached now: that of the last of
them, or another where somebody else has moved on or back meanwhile."""


class Follower:
    """Hands every event to ``apply``, once it is at the position before it.

    Published events come at least once and may come late or out of order. One that is known is dropped, one that follows is
    applied, and one that leaves a gap only shows that there is something to read. So nothing is missed and nothing is
    applied in the wrong order, whatever the broker does.
    """

    def __init__(self, owner: str, read: Reader, apply: Applier, *, interval: float) -> None:
        """``interval``: seconds between looks at the store without being told of an event."""
        self._owner = owner
        self._tasks: Tasks | None = None
        self._read, self._apply, self._interval = read, apply, interval
        self._turn = asyncio.Lock()
        self.position = 0
        self.trouble = ""
        """Why following failed the last time; empty when it did not. What readers ask for in between does not count, for
        they may give up for reasons of their own."""

    def start(self) -> None:
        """Keep up by itself until ``aclose``."""
        self._tasks = Tasks(self._owner)
        self._tasks.start(self._keep_up(), "follow the events")

    async def take(self, event: RecordedEvent) -> None:
        """A published event. Returns when it is applied; raises what reading or applying raised."""
        if event.position <= self.position:
            return
        with self._noting():
            async with self._turn:
                if event.position == self.position + 1:
                    await self._advance((event,))
            if event.position > self.position:
                await self.catch_up()

    async def catch_up(self) -> None:
        """Apply what the store has beyond our position; raises what reading or applying raised."""
        async with self._turn:
            while True:
                page = await self._read(self.position, PAGE)
                if not page.events:
                    return
                await self._advance(page.events)

    async def _advance(self, events: Sequence[RecordedEvent]) -> None:
        self.position = await self._apply(events, self.position)

    async def restart(self, position: int) -> None:
        """Go on after ``position``, which may be an earlier one."""
        async with self._turn:
            self.position = position

    async def aclose(self) -> None:
        if self._tasks is not None:
            await self._tasks.aclose()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.trouble = str(error)
            raise
        self.trouble = ""

    async def _keep_up(self) -> None:
        while True:
            try:
                with self._noting():
                    await self.catch_up()
            except FabricError as error:
                _log.warning("behind the events since position %d: %s", self.position, error)
            await asyncio.sleep(self._interval)
