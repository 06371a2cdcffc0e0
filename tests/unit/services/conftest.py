"""A bench with the services that the tests are about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fabric import Hub
from fabric.testing import Bench
from services.todo.event_store import EventStore
from services.todo.prisma import PrismaService, PrismaSettings


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench() as bench:
        yield bench


@pytest.fixture
async def hub(bench: Bench) -> Hub:
    return await bench.hub("test")


@pytest.fixture
async def store(bench: Bench, hub: Hub, tmp_path: Path) -> EventStore:
    """A proxy of an event store on a database of its own."""
    await bench.start(PrismaService(PrismaSettings(data_dir=tmp_path)), instance="prisma-1")
    await bench.start(EventStore(), instance="store-1")
    return hub.proxy(EventStore)
