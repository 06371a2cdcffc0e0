"""The events of everything that happened, in order, and their publication."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from fabric import Health, Service, rpc
from fabric.errors import FabricError
from fabric.tasks import Tasks
from services.todo.contracts import Appended, AppendEvents, EventPage, Identifier, Limit, Position, RecordedEvent
from services.todo.nested import passing_on
from services.todo.prisma import PrismaService

_log = logging.getLogger(__name__)

BATCH = 100
PAGE = 500


class EventStore(Service):
    """Append-only streams with optimistic concurrency.

    An event is stored with a note in an outbox, in one transaction, and published from there; the note goes when the
    broker has confirmed. So an event that is stored is published, after a crash in between too, at least once and, as
    long as one instance does it, in order.
    """

    name, version = "event-store", "1.0.0"
    capabilities = ("event-sourcing",)
    dependencies = ("prisma-service",)

    SWEEP_SECONDS = 2.0
    """Between looks for events that another instance stored and did not come to publish."""

    def __init__(self) -> None:
        self._tasks: Tasks | None = None
        self._appended = asyncio.Event()
        self._trouble = ""

    async def start(self) -> None:
        self._database = self.hub.proxy(PrismaService)
        await self._database.read_all(limit=1)
        self._tasks = Tasks(self.name)
        self._tasks.start(self._relay(), "outbox relay")

    async def stop(self) -> None:
        if self._tasks is not None:
            await self._tasks.aclose()

    async def check_health(self) -> Health:
        try:
            page = await self.hub.proxy(PrismaService, timeout=2.0).read_all(limit=1)
        except FabricError as error:
            return Health.bad(f"the database does not answer: {error}")
        if self._trouble:
            return Health.bad(f"events are stored and not published: {self._trouble}", last_position=page.last)
        return Health.ok(last_position=page.last)

    @rpc(idempotent=True, timeout=10.0)
    async def append(self, request: AppendEvents) -> Appended:
        """Store the events; they are published soon after. A ``command_id`` is taken once, and answered alike each time.
        Without one a repetition is harmless too, but it is refused as a conflict with itself.

        Raises:
            ServiceError: ``events.version-conflict`` or ``events.command-reused``; nothing was stored.
        """
        with passing_on():
            appended = await self._database.append_events(request)
        self._appended.set()
        return appended

    @rpc(idempotent=True, timeout=10.0)
    async def read_stream(self, stream: Identifier, after: Position = 0, limit: Limit = 500) -> EventPage:
        """Events of one stream with a version above ``after``."""
        with passing_on():
            return await self._database.read_stream(stream, after, limit)

    @rpc(idempotent=True, timeout=10.0)
    async def read_all(self, after: Position = 0, limit: Limit = 500) -> EventPage:
        """Events of all streams with a position above ``after``."""
        with passing_on():
            return await self._database.read_all(after, limit)

    async def _relay(self) -> None:
        while True:
            self._appended.clear()
            try:
                await self._publish_stored()
                self._trouble = ""
            except FabricError as error:
                self._trouble = str(error)
                _log.warning("events wait to be published: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._appended.wait(), self.SWEEP_SECONDS)
            if self._trouble:
                # Each append wakes us; while the broker or the database is away that must not become a busy loop.
                await asyncio.sleep(self.SWEEP_SECONDS)

    async def _publish_stored(self) -> None:
        """Publish what is in the outbox, oldest first, and note how far it came, also when it breaks off."""
        while events := await self._database.unpublished_events(BATCH):
            published: list[int] = []
            try:
                for event in events:
                    await self.hub.publish(event.type, event, id=event.id)
                    published.append(event.position)
            finally:
                if published:
                    await self._database.mark_published(tuple(published))


async def whole_stream(store: EventStore, stream: str) -> list[RecordedEvent]:
    """All events of one stream, read page by page through a proxy of the store."""
    events: list[RecordedEvent] = []
    while True:
        page = await store.read_stream(stream, len(events), PAGE)
        events.extend(page.events)
        if len(page.events) < PAGE:
            return events
