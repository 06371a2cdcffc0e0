"""The event store: what is stored is published, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fabric import Hub, Service, on_event
from fabric.errors import NotSent, RemoteError
from fabric.testing import Bench
from services.todo.contracts import AppendEvents, NewEvent, RecordedEvent
from services.todo.event_store import EventStore, whole_stream
from services.todo.prisma import PrismaService, PrismaSettings


def append(stream: str, expected: int, *titles: str, command: str | None = None) -> AppendEvents:
    events = tuple(NewEvent(type="todo.created", data={"title": title}) for title in titles)
    return AppendEvents(stream=stream, expected_version=expected, events=events, command_id=command)


class Listener(Service):
    """Notes the events that it gets."""

    name = "listener"

    def __init__(self) -> None:
        self.heard: list[RecordedEvent] = []
        self._came = asyncio.Event()

    @on_event("todo.*", concurrency=1)
    async def hear(self, event: RecordedEvent) -> None:
        self.heard.append(event)
        self._came.set()

    async def wait_for(self, count: int) -> list[RecordedEvent]:
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                self._came.clear()
                await self._came.wait()
        return self.heard


async def test_appended_events_are_published_in_order(bench: Bench, store: EventStore) -> None:
    """Subscribers get what was stored, with stream, version and position, in the order of the positions."""
    listener = Listener()
    await bench.start(listener)
    await store.append(append("a", 0, "one", "two"))
    await store.append(append("b", 0, "three"))
    heard = await listener.wait_for(3)
    assert [(event.stream, event.version, event.position, event.data["title"]) for event in heard] == [
        ("a", 1, 1, "one"), ("a", 2, 2, "two"), ("b", 1, 3, "three")
    ]  # fmt: skip


async def test_conflicts_reach_the_caller(store: EventStore) -> None:
    """The database's refusal comes through with its code and what it knows."""
    await store.append(append("a", 0, "one"))
    with pytest.raises(RemoteError) as raised:
        await store.append(append("a", 0, "other"))
    assert (raised.value.service, raised.value.code) == ("event-store", "events.version-conflict")
    assert raised.value.details == {"stream": "a", "expected": 0, "actual": 1}


async def test_what_a_crash_left_in_the_outbox_is_published(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """Events stored by an instance that died before it published them go out when the next one starts."""
    listener = Listener()
    await bench.start(listener)
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)))
    database = hub.proxy(PrismaService)
    await database.append_events(append("a", 0, "one", "two"))
    await bench.start(EventStore())
    assert [event.data["title"] for event in await listener.wait_for(2)] == ["one", "two"]


class Unreliable(EventStore):
    """Its first publications fail; tries again at once."""

    SWEEP_SECONDS = 0.01

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.failed, self.settled = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        publish = self.hub.publish

        async def unreliable(*args: Any, **kwargs: Any) -> str:
            if self.failures:
                self.failures -= 1
                self.failed.set()
                raise NotSent("the broker is away")
            return await publish(*args, **kwargs)

        self.hub.publish = unreliable  # type: ignore[method-assign]
        await super().start()

    async def _publish_stored(self) -> None:
        await super()._publish_stored()
        self.settled.set()


async def test_a_broker_that_is_away_delays_and_loses_nothing(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """While publishing fails appending works and the health says why; once the broker is back all events come, in order."""
    listener, unreliable = Listener(), Unreliable(failures=10**9)
    await bench.start(listener)
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)))
    await bench.start(unreliable)
    store = hub.proxy(EventStore)
    await store.append(append("a", 0, "one", "two"))
    async with asyncio.timeout(10):
        await unreliable.failed.wait()
    health = await unreliable.check_health()
    assert not health.is_ok
    assert "the broker is away" in health.reason
    unreliable.failures = 0
    unreliable.settled.clear()
    assert [event.data["title"] for event in await listener.wait_for(2)] == ["one", "two"]
    async with asyncio.timeout(10):
        await unreliable.settled.wait()
    assert await hub.proxy(PrismaService).unpublished_events() == []


async def test_a_long_stream_is_read_whole(store: EventStore) -> None:
    """A stream of more than a page comes complete and in order."""
    for start in range(0, 600, 100):
        await store.append(append("a", start, *(str(start + n) for n in range(100))))
    assert [event.data["title"] for event in await whole_stream(store, "a")] == [str(n) for n in range(600)]


async def test_without_its_database_it_is_not_healthy(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """S12 (process-compose#544): when the database goes, the health check says so by name; when it is back, all is well."""
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)), instance="prisma-1")
    store = EventStore()
    await bench.start(store)
    await bench.stop("prisma-1")
    health = await store.check_health()
    assert not health.is_ok
    assert "prisma-service" in health.reason
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)), instance="prisma-2")
    assert (await store.check_health()).is_ok
