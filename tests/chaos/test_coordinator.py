"""Coordinators that die, sleep and compete, over an in-memory bus with real agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from fabric import Health, Hub, Service
from fabric.config import Settings
from fabric.coordination.agent import AgentPolicy
from fabric.coordination.coordinator import Coordinator
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.journal import Entry
from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.leadership import LeadershipPolicy
from fabric.coordination.status import FleetStatus, RunState, ServiceState, UpOptions
from fabric.errors import CallError, RemoteError, StaleCommand
from fabric.startup.events import CancelRequested, Command, CommandKind, LeadershipTaken
from fabric.testing import Bench

FLEET = """
name: shop
services:
  database: {critical: true, timeout: 20s, run: "x:Database"}
  cache: {critical: false, timeout: 20s, run: "x:Cache"}
  orders: {critical: true, timeout: 20s, run: "x:Orders", dependencies: [database]}
stages:
  - {name: ground, services: [database, cache], gate: {required: [database], optional: [cache]}, timeout: 60s}
  - {name: rest, services: [orders], gate: {required: [orders]}, timeout: 60s}
"""
POLICY = LeadershipPolicy(watch_interval=0.05, greeting=0.5, pause=0.1)


class _Part(Service):
    def __init__(self) -> None:
        self.starts = self.stops = 0
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self) -> None:
        self.starts += 1
        await self.may_start.wait()

    async def stop(self) -> None:
        self.stops += 1

    async def check_health(self) -> Health:
        return Health.ok()


class Database(_Part):
    name = "database"


class Cache(_Part):
    name = "cache"


class Orders(_Part):
    name = "orders"


class MortalJournal(MemoryJournal):
    """Its coordinator dies with the ``last`` record: that is written, and nothing is done about it any more."""

    def __init__(self, log: list[bytes], last: int | None = None) -> None:
        super().__init__(log)
        self._last, self._written = last, 0
        self.died = asyncio.Event()
        self.asleep = asyncio.Event()
        self.asleep.set()

    async def append(self, entries: Sequence[Entry], *, first: bool = False) -> None:
        if self.died.is_set():
            await asyncio.Event().wait()
        await self.asleep.wait()
        await super().append(entries, first=first)
        self._written += 1
        if self._written == self._last:
            self.died.set()
            await asyncio.Event().wait()


@dataclass
class Stage:
    """A fleet of three services, and the journal of its coordinators."""

    bench: Bench
    log: list[bytes] = field(default_factory=list)
    parts: list[_Part] = field(default_factory=list)

    async def populate(self) -> None:
        self.parts = [Database(), Cache(), Orders()]
        for part in self.parts:
            await self.bench.start(part, managed=True, instance=f"{part.name}-1")

    async def coordinator(self, instance: str, journal: MemoryJournal | None = None) -> Coordinator:
        """One that leads when this returns."""
        coordinator = Coordinator(parse_fleet(FLEET, "shop.yaml"), journal=journal or MemoryJournal(self.log), policy=POLICY)
        await self.bench.start(coordinator, instance=instance)
        return coordinator

    async def kill_at(self, last: int) -> bool:
        """Bring the fleet up with a coordinator that dies at record ``last``. False: it never wrote that many."""
        journal = MortalJournal(self.log, last)
        coordinator = await self.coordinator("coordinator-1", journal)
        asking = asyncio.create_task(coordinator.up(UpOptions()))
        dead, up = asyncio.create_task(journal.died.wait()), asyncio.create_task(self.settled(coordinator))
        await asyncio.wait((dead, up), return_when=asyncio.FIRST_COMPLETED)
        for task in (asking, dead, up):
            task.cancel()
        await asyncio.gather(asking, dead, up, return_exceptions=True)
        self.bench.kill("coordinator-1")
        return journal.died.is_set()

    async def settled(self, coordinator: Coordinator) -> FleetStatus:
        async with asyncio.timeout(20):
            while not (status := await coordinator.status()).state.is_settled:
                await asyncio.sleep(0.01)
            return status


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Bench(policy=FAST) as bench:
        yield Stage(bench)


FAST = AgentPolicy(first_check=0.01, check_interval=0.3, check_timeout=1.0, vote_valid_for=3.0, goodbye_timeout=0.1)


async def test_a_successor_finishes_what_any_record_began() -> None:
    """S2 (helm#11863, Marathon#4085, #815): killed at each record in turn; the same end, start() of each ran exactly once."""
    last = 0
    while True:
        last += 1
        async with Bench(policy=FAST) as bench:
            stage = Stage(bench)
            await stage.populate()
            if not await stage.kill_at(last):
                break
            successor = await stage.coordinator("coordinator-2")
            status = await successor.status()
            assert status.run, f"the run was forgotten at record {last}"
            status = await stage.settled(successor)
            assert status.state is RunState.UP, f"killed at record {last}: {status}"
            assert [(part.starts, part.stops) for part in stage.parts] == [(1, 0)] * 3, f"killed at record {last}"
    assert last > 10
