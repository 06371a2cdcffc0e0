"""Coordinators that die, sleep and compete, over an in-memory bus with real agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import orjson
import pytest

from fabric import Health, Service
from fabric.coordination.agent import AgentPolicy
from fabric.coordination.coordinator import Coordinator
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.journal import Entry
from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.leadership import LeadershipPolicy
from fabric.coordination.participants import BusParticipants
from fabric.coordination.status import FleetStatus, RunState, UpOptions
from fabric.errors import ServiceError
from fabric.startup.events import Command, CommandKind, Event, Vote
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

    def die_with_next(self) -> None:
        self._last = self._written + 1

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
    assert last > 5


async def test_what_was_cancelled_stays_cancelled_under_a_successor(stage: Stage) -> None:
    """S2: the successor neither goes on with the run nor stops what was up, and keeps its services down."""
    await stage.populate()
    database, cache, orders = stage.parts
    cache.may_start.clear()
    database.may_start.clear()
    first = await stage.coordinator("coordinator-1")
    await first.up(UpOptions())
    await first.cancel("changed my mind")
    assert (await stage.settled(first)).state is RunState.CANCELLED
    stage.bench.kill("coordinator-1")
    second = await stage.coordinator("coordinator-2")
    assert (await stage.settled(second)).state is RunState.CANCELLED
    assert [orders.starts, database.starts, cache.starts] == [0, 1, 1]


async def test_what_was_shut_down_stays_down_under_a_successor(stage: Stage) -> None:
    """S2: also with autostart, for a container that is started again is no wish to start the fleet."""
    await stage.populate()
    first = await stage.coordinator("coordinator-1")
    await first.up(UpOptions())
    await stage.settled(first)
    assert (await first.down()).state is RunState.STOPPED
    stage.bench.kill("coordinator-1")
    second = Coordinator(parse_fleet(FLEET, "shop.yaml"), autostart=UpOptions(), journal=MemoryJournal(stage.log), policy=POLICY)
    await stage.bench.start(second, instance="coordinator-2")
    assert (await second.status()).state in (RunState.IDLE, RunState.STOPPED)
    assert [(part.starts, part.stops) for part in stage.parts] == [(1, 1)] * 3


async def test_a_shutdown_that_was_cut_short_is_finished(stage: Stage) -> None:
    """S2: the successor stops what the first one had not stopped yet, and the fleet ends down."""
    await stage.populate()
    journal = MortalJournal(stage.log)
    first = await stage.coordinator("coordinator-1", journal)
    await first.up(UpOptions())
    await stage.settled(first)
    journal.die_with_next()
    stopping = asyncio.create_task(first.down())
    await journal.died.wait()
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    stage.bench.kill("coordinator-1")
    second = await stage.coordinator("coordinator-2")
    assert (await second.down()).state is RunState.STOPPED
    assert [part.stops for part in stage.parts] == [1, 1, 1]


async def test_an_old_leader_that_wakes_is_refused_and_stands_by(stage: Stage) -> None:
    """S2, S18 (aphyr 315): it slept through its succession, believes that it leads, and neither the agents nor the journal let
    it; its health says so, and callers are sent on."""
    await stage.populate()
    journal = MortalJournal(stage.log)
    old = await stage.coordinator("coordinator-1", journal)
    await old.up(UpOptions())
    status = await stage.settled(old)
    journal.asleep.clear()
    epoch = MemoryJournal(stage.log)
    claim = await epoch.leader()
    assert claim is not None
    successor = MemoryJournal(stage.log)
    taken = await successor.claim("coordinator-2", 1)
    assert old.hub.instance == "coordinator-1"
    participants = BusParticipants(await stage.bench.hub("other"))
    await participants.open()
    heard: list[Event] = []
    check = Command(kind=CommandKind.CHECK, run=status.run, epoch=taken.claim.epoch, service="database", timeout=5.0)
    participants.listen(heard.append)
    await participants.send(check)
    await until(lambda: any(isinstance(event, Vote) and event.epoch == taken.claim.epoch for event in heard))
    stop = Command(kind=CommandKind.STOP, run=status.run, epoch=claim.epoch, service="database", attempt=1, timeout=5.0)
    await participants.send(stop)
    journal.asleep.set()
    await until(lambda: not old.leads)
    with pytest.raises(ServiceError) as refused:
        await old.up(UpOptions())
    assert refused.value.code == "coordinator.not-leader"
    assert refused.value.retryable
    assert refused.value.details["leader"] == "coordinator-2"
    assert not (await old.check_health()).is_ok
    heard.clear()
    await participants.send(check)
    await until(lambda: any(isinstance(event, Vote) for event in heard))
    assert stage.parts[0].stops == 0
    await participants.aclose()


async def test_calls_reach_the_leader_and_a_standby_takes_over_when_it_is_lost(stage: Stage) -> None:
    """S2: two coordinators run, every call is answered by the one that leads; it dies, and the other goes on by itself."""
    await stage.populate()
    first = await stage.coordinator("coordinator-1")
    standby = Coordinator(parse_fleet(FLEET, "shop.yaml"), journal=MemoryJournal(stage.log), policy=POLICY)
    joining = asyncio.create_task(stage.bench.start(standby, instance="coordinator-2"))
    hub = await stage.bench.hub()
    status = await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    await stage.settled(first)
    for _ in range(20):
        answer = await hub.call("coordinator", "status", returns=FleetStatus)
        assert (answer.run, answer.epoch) == (status.run, status.epoch)
    assert not standby.leads
    stage.bench.kill("coordinator-1")
    await joining
    answer = await stage.settled(standby)
    assert (answer.run, answer.state) == (status.run, RunState.UP)
    assert answer.epoch > status.epoch
    assert [(part.starts, part.stops) for part in stage.parts] == [(1, 0)] * 3


async def test_an_instance_that_went_while_nobody_led_is_started_again(stage: Stage) -> None:
    """The successor calls the roll: who does not answer is lost, and its return under the same id is a new attempt."""
    await stage.populate()
    first = await stage.coordinator("coordinator-1")
    await first.up(UpOptions())
    await stage.settled(first)
    stage.bench.kill("coordinator-1")
    stage.bench.kill("cache-1")
    again = Cache()
    second = await stage.coordinator("coordinator-2")
    await stage.bench.start(again, managed=True, instance="cache-1")
    async with asyncio.timeout(20):
        while not (again.starts == 1 and (await second.status()).state is RunState.UP):
            await asyncio.sleep(0.02)
    assert [(part.starts, part.stops) for part in (stage.parts[0], stage.parts[2])] == [(1, 0)] * 2


async def test_the_journal_of_a_fleet_at_rest_does_not_grow(stage: Stage) -> None:
    """Votes that change nothing are not written, though dozens come; a change is written with the votes before it."""
    await stage.populate()
    first = await stage.coordinator("coordinator-1")
    await first.up(UpOptions())
    await stage.settled(first)
    names = {part.name for part in stage.parts}
    await until(lambda: all(f'"Vote","service":"{name}"'.encode() in b"".join(stage.log) for name in names))
    before = len(stage.log)
    heard: list[Event] = []
    participants = BusParticipants(await stage.bench.hub("listener"))
    await participants.open()
    participants.listen(heard.append)
    await until(lambda: all(sum(isinstance(e, Vote) and e.service == name for e in heard) > 3 for name in names))
    await participants.aclose()
    assert [orjson.loads(record)["entries"] for record in stage.log[before:]] == []
    await first.down()
    assert len(stage.log) > before


async def until(fits: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not fits():
            await asyncio.sleep(0.01)
