"""The coordinator and real agents over an in-memory bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fabric import Health, Hub, Service, on_broadcast
from fabric.coordination.agent import AgentPolicy
from fabric.coordination.coordinator import Coordinator
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.status import FleetStatus, ProcessExit, RunState, ServiceState, StageState, UpOptions
from fabric.startup.history import ProfileHistory
from fabric.testing import Bench

FLEET = """
name: shop
services:
  database: {critical: true, timeout: 5s, run: "x:Database"}
  cache: {critical: false, timeout: 5s, run: "x:Cache"}
  orders: {critical: true, timeout: 5s, run: "x:Orders", dependencies: [database], retry: {attempts: 2, delay: 10ms}}
  mail: {critical: false, timeout: 5s, run: "x:Mail", dependencies: [cache]}
stages:
  - {name: ground, services: [database, cache], gate: {required: [database], optional: [cache]}, timeout: 10s}
  - {name: rest, services: [orders, mail], gate: {required: [orders], optional: [mail]}, timeout: 10s}
"""


class _Step(Service):
    """Notes when it starts and stops, and fails as often as it is told to."""

    def __init__(self, log: list[str], failures: int = 0) -> None:
        self.log, self.failures = log, failures

    async def start(self) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError(f"{self.name} can't open its port")
        self.log.append(f"+{self.name}")

    async def stop(self) -> None:
        self.log.append(f"-{self.name}")

    async def check_health(self) -> Health:
        return Health.ok()


class Database(_Step):
    name = "database"


class Cache(_Step):
    name = "cache"


class Orders(_Step):
    name = "orders"


class Mail(_Step):
    name = "mail"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    policy = AgentPolicy(first_check=0.01, check_interval=0.2, check_timeout=1.0, vote_valid_for=3.0)
    async with Bench(policy=policy) as bench:
        yield bench


async def lead(bench: Bench) -> Hub:
    """A coordinator on the bench, and a client of it."""
    await bench.start(Coordinator(parse_fleet(FLEET, "shop.yaml")))
    return await bench.hub()


async def up(hub: Hub, options: UpOptions | None = None) -> FleetStatus:
    """Ask for a run and wait until it has settled."""
    status = await hub.call("coordinator", "up", options or UpOptions(), returns=FleetStatus)
    return await settled(hub, status.run)


async def settled(hub: Hub, run: str) -> FleetStatus:
    async with asyncio.timeout(20):
        while True:
            status = await hub.call("coordinator", "status", returns=FleetStatus)
            if status.run == run and status.state.is_settled:
                return status
            await asyncio.sleep(0.02)


def state(status: FleetStatus, service: str) -> ServiceState:
    return next(entry.state for entry in status.services if entry.name == service)


async def test_a_fleet_comes_up_in_dependency_order_and_goes_down_in_reverse(bench: Bench) -> None:
    """Every gate opens, start() runs after its dependencies', and stop() before theirs."""
    log: list[str] = []
    for service in (Mail(log), Orders(log), Cache(log), Database(log)):
        await bench.start(service, managed=True)
    hub = await lead(bench)
    status = await up(hub)
    assert status.state is RunState.UP
    assert [stage.state for stage in status.stages] == [StageState.OPEN, StageState.OPEN]
    assert status.progress == 1.0
    assert log.index("+database") < log.index("+orders")
    assert log.index("+cache") < log.index("+mail")
    log.clear()
    down = await hub.call("coordinator", "down", returns=FleetStatus, timeout=20)
    assert down.state is RunState.STOPPED
    assert log.index("-orders") < log.index("-database")
    assert log.index("-mail") < log.index("-cache")


async def test_processes_may_come_later_than_the_run(bench: Bench) -> None:
    """A run that was asked for before anybody joined commands each as it comes."""
    hub = await lead(bench)
    asked = await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    assert asked.state is RunState.STARTING
    log: list[str] = []
    for service in (Mail(log), Orders(log), Cache(log), Database(log)):
        await bench.start(service, managed=True)
    assert (await settled(hub, asked.run)).state is RunState.UP


async def test_time_goes_on_while_nothing_happens(bench: Bench) -> None:
    """The status, its stages and the explanation count up to the moment of asking, not to the last thing that happened."""
    hub = await lead(bench)
    first = await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    async with asyncio.timeout(10):
        while (status := await hub.call("coordinator", "status", returns=FleetStatus)).elapsed < first.elapsed + 0.3:
            await asyncio.sleep(0.02)
        assert (status.stages[0].elapsed or 0.0) >= 0.3
        while ", for 0.0 s of 5 s" in (told := await hub.call("coordinator", "explain", {"service": "database"}, returns=str)):
            await asyncio.sleep(0.02)
    assert " s of 5 s; needs 1 ready" in told


async def test_a_start_that_fails_once_is_tried_again(bench: Bench) -> None:
    """S1: the retry of the definition brings it up, and its dependents with it."""
    log: list[str] = []
    for service in (Mail(log), Orders(log, failures=1), Cache(log), Database(log)):
        await bench.start(service, managed=True)
    status = await up(await lead(bench))
    assert status.state is RunState.UP
    assert next(entry.attempt for entry in status.services if entry.name == "orders") == 2


async def test_a_critical_failure_stops_only_what_needs_it(bench: Bench) -> None:
    """S16: orders is blocked by the database, cache and mail come up; the status names the reason."""
    log: list[str] = []
    for service in (Mail(log), Orders(log), Cache(log), Database(log, failures=99)):
        await bench.start(service, managed=True)
    status = await up(await lead(bench))
    assert status.state is RunState.FAILED
    database = next(entry for entry in status.services if entry.name == "database")
    assert database.state is ServiceState.FAILED
    assert "can't open its port" in database.reason
    assert state(status, "orders") is ServiceState.BLOCKED
    assert state(status, "cache") is ServiceState.READY
    assert "+orders" not in log


async def test_a_non_critical_failure_degrades(bench: Bench) -> None:
    """S7: the critical path is up without the cache."""
    log: list[str] = []
    for service in (Mail(log), Orders(log), Cache(log, failures=99), Database(log)):
        await bench.start(service, managed=True)
    status = await up(await lead(bench))
    assert status.state is RunState.DEGRADED
    assert state(status, "orders") is ServiceState.READY


async def test_an_exit_that_the_supervisor_reports_is_the_reason(bench: Bench) -> None:
    """S3 (compose#9732): a process that ends before its first vote fails with its exit code and last words."""
    log: list[str] = []
    for service in (Mail(log), Orders(log), Cache(log)):
        await bench.start(service, managed=True)
    hub = await lead(bench)
    asked = await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    ended = ProcessExit(service="database", instance="database-1", pid=1, code=3, log=("no such file: schema.sql",))
    await hub.call("coordinator", "process_exited", ended)
    status = await settled(hub, asked.run)
    database = next(entry for entry in status.services if entry.name == "database")
    assert database.state is ServiceState.FAILED
    assert "3" in database.reason


async def test_progress_is_broadcast(bench: Bench) -> None:
    """Whoever listens is shown the run without asking, in order."""
    seen: list[FleetStatus] = []
    is_up = asyncio.Event()

    class Watcher(Service):
        name = "watcher"

        @on_broadcast("fleet.progress")
        async def take(self, status: FleetStatus) -> None:
            seen.append(status)
            if status.state is RunState.UP:
                is_up.set()

    await bench.start(Watcher())
    log: list[str] = []
    for service in (Mail(log), Orders(log), Cache(log), Database(log)):
        await bench.start(service, managed=True)
    await up(await lead(bench))
    await asyncio.wait_for(is_up.wait(), 5)
    assert [status.sequence for status in seen] == sorted(status.sequence for status in seen)


async def test_runs_are_recorded(bench: Bench, tmp_path: Path) -> None:
    """The profile of a run is in the history when the coordinator has stopped, and its times order the next start."""
    path = tmp_path / "there" / "history.sqlite3"
    served = await bench.start(Coordinator(parse_fleet(FLEET, "shop.yaml"), history=path))
    log: list[str] = []
    for service in (Database, Cache, Orders, Mail):
        await bench.start(service(log), managed=True)
    status = await up(await bench.hub())
    await served.aclose()
    with ProfileHistory(path) as history:
        (profile,) = history.recent("shop")
    assert profile.run == status.run
    assert set(profile.durations) == {"database", "cache", "orders", "mail"}


async def test_a_history_that_is_broken_keeps_nothing_down(bench: Bench, tmp_path: Path) -> None:
    """A fleet comes up though its history can't be read; it is only not recorded."""
    path = tmp_path / "history.sqlite3"
    path.write_text("no history, and long enough to look like a file of another kind" * 20)
    await bench.start(Coordinator(parse_fleet(FLEET, "shop.yaml"), history=path))
    log: list[str] = []
    for service in (Database, Cache, Orders, Mail):
        await bench.start(service(log), managed=True)
    assert (await up(await bench.hub())).state is RunState.UP
