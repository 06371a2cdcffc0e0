"""S13 on a bus in memory: a coordinator, agents, and a supervisor that starts and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from fabric import Hub, Service, rpc
from fabric.cli.progress import FleetWatch
from fabric.coordination.agent import AgentPolicy
from fabric.coordination.coordinator import Coordinator
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.leadership import LeadershipPolicy
from fabric.coordination.processes import SUPERVISOR, EndOrder, StartOrder, Versions
from fabric.coordination.status import FleetStatus, RestartOptions, RollStatus, UpOptions
from fabric.errors import RemoteError
from fabric.startup.events import CancelRequested, RollRequested, RunRequested
from fabric.testing import Bench

FLEET = """
name: shop
services:
  store: {critical: true, timeout: 5s, run: "x:Store", instances: 2}
  web: {critical: true, timeout: 5s, run: "x:Web", dependencies: [store]}
"""


class Store(Service):
    name = "store"

    def __init__(self, made: str = "old") -> None:
        self.made = made

    async def start(self) -> None:
        if self.made == "broken":
            raise RuntimeError("no such table")

    @rpc(idempotent=True)
    async def which(self) -> str:
        await asyncio.sleep(0.01)
        return self.made


class Web(Service):
    name = "web"

    def __init__(self, made: str = "old") -> None:
        self.made = made

    @rpc(idempotent=True)
    async def which(self) -> str:
        return self.made


class Hands(Service):
    """A supervisor whose processes are agents on the bench. ``wanted`` is what the fleet file is to say."""

    name: ClassVar[str] = SUPERVISOR

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.wanted = "new"
        self.may_run = asyncio.Event()
        self.may_run.set()
        self.done: dict[str, tuple[str, int]] = {}
        self.running: dict[str, str] = {}
        self.log: list[str] = []

    async def run(self, instance: str, made: str) -> None:
        kind = {"store": Store, "web": Web}[instance.rpartition("-")[0]]
        self.running[instance] = made
        await self.bench.start(kind(made), managed=True, instance=instance)

    @rpc(idempotent=True)
    async def prepare(self, services: list[str]) -> Versions:
        return Versions(version=self.wanted, previous="old")

    @rpc(idempotent=True)
    async def start_process(self, order: StartOrder) -> int:
        if self.done.get(order.instance) == (order.run, order.attempt):
            return 1
        self.done[order.instance] = (order.run, order.attempt)
        self.log.append(f"+{order.instance}@{order.version}")
        if self.running.pop(order.instance, None):
            await self.bench.stop(order.instance)
        await self.may_run.wait()
        await self.run(order.instance, order.version)
        return 1

    @rpc(idempotent=True)
    async def end_process(self, order: EndOrder) -> None:
        self.log.append(f"-{order.instance}")
        if self.running.pop(order.instance, None):
            await self.bench.stop(order.instance)


class Calls:
    """Calls one after the other for as long as it lasts; every failure is kept."""

    def __init__(self, hub: Hub, service: str) -> None:
        self._hub, self._service = hub, service
        self.answers: list[str] = []
        self.failures: list[Exception] = []

    async def go(self) -> None:
        while True:
            try:
                self.answers.append(await self._hub.call(self._service, "which", returns=str, timeout=2.0))
            except Exception as error:
                self.failures.append(error)
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    policy = AgentPolicy(first_check=0.01, check_interval=0.2, check_timeout=1.0, vote_valid_for=3.0)
    async with Bench(policy=policy) as bench:
        yield bench


@pytest.fixture
def log() -> list[bytes]:
    """The journal."""
    return []


@pytest.fixture
async def hands(bench: Bench, log: list[bytes], tmp_path: Path) -> Hands:
    """The fleet is up, two stores and one web, in the hands of a supervisor."""
    hands = Hands(bench)
    fleet, history = parse_fleet(FLEET, "shop.yaml"), tmp_path / "history.db"
    await bench.start(Coordinator(fleet, journal=MemoryJournal(log), history=history), instance="coordinator-1")
    await bench.start(hands)
    for instance in ("store-1", "store-2", "web-1"):
        await hands.run(instance, "old")
    hub = await bench.hub("operator")
    status = await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    async with asyncio.timeout(10):
        while not status.state.is_settled:
            await asyncio.sleep(0.02)
            status = await hub.call("coordinator", "status", returns=FleetStatus)
    assert status.state.is_usable
    return hands


async def restart(bench: Bench, **options: object) -> RollStatus:
    """Restart and wait for the end."""
    hub = await bench.hub("operator")
    wanted = RestartOptions.model_validate({"id": "r1", "stable_for": 0.1, **options})
    status = await hub.call("coordinator", "restart", wanted, returns=FleetStatus)
    async with asyncio.timeout(20):
        while status.roll is None or not status.roll.over:
            await asyncio.sleep(0.02)
            status = await hub.call("coordinator", "status", returns=FleetStatus)
    return status.roll


async def test_no_call_fails_during_a_rolling_restart(bench: Bench, hands: Hands) -> None:
    """S13 (nomad#3836): two instances are replaced one after the other, and of the calls that go on all the time none fails."""
    calls = Calls(await bench.hub("caller"), "store")
    calling = asyncio.create_task(calls.go())
    roll = await restart(bench, services=("store",))
    calling.cancel()
    assert (roll.state, roll.replaced) == ("done", ("store-1", "store-2"))
    assert hands.log == ["-store-1", "+store-1@new", "-store-2", "+store-2@new"]
    assert calls.failures == []
    assert {"old", "new"} == set(calls.answers)


async def test_a_broken_version_is_taken_back(bench: Bench, hands: Hands) -> None:
    """S13 (nomad#3836): a version that does not start is replaced by what ran before; the other instance is not touched."""
    hands.wanted = "broken"
    calls = Calls(await bench.hub("caller"), "store")
    calling = asyncio.create_task(calls.go())
    roll = await restart(bench, services=("store",))
    calling.cancel()
    assert (roll.state, roll.replaced) == ("reverted", ())
    assert "no such table" in roll.reason
    assert hands.running == {"store-1": "old", "store-2": "old", "web-1": "old"}
    assert not any("store-2" in line for line in hands.log)
    assert calls.failures == []
    assert set(calls.answers) == {"old"}


async def test_a_single_instance_surges_or_is_refused(bench: Bench, hands: Hands) -> None:
    """S13 (nomad#6864): one replica that must stay available is refused; with a surge a second one covers for it, then goes."""
    with pytest.raises(RemoteError, match="allow a surge") as refused:
        await restart(bench, services=("web",))
    assert refused.value.code == "coordinator.restart-refused"
    assert hands.log == []
    calls = Calls(await bench.hub("caller"), "web")
    calling = asyncio.create_task(calls.go())
    roll = await restart(bench, services=("web",), surge=True)
    calling.cancel()
    assert roll.state == "done"
    assert hands.log == ["+web-2@new", "-web-1", "+web-1@new", "-web-2"]
    assert hands.running["web-1"] == "new"
    assert "web-2" not in hands.running
    assert calls.failures == []


async def test_all_services_in_the_order_of_their_dependencies(bench: Bench, hands: Hands) -> None:
    """Without names everything that is up is restarted, what others need first; with nothing to keep up none is refused."""
    roll = await restart(bench, min_available=0, stable_for=0.0)
    assert roll.state == "done"
    assert [line for line in hands.log if line.startswith("+")] == ["+store-1@new", "+store-2@new", "+web-1@new"]


async def test_asking_twice_is_asking_once(bench: Bench, hands: Hands) -> None:
    """A repeat with the same id begins nothing; another id is refused while one is under way."""
    hub = await bench.hub("operator")
    options = RestartOptions(id="r1", services=("store",), stable_for=0.3)
    for _ in range(2):
        status = await hub.call("coordinator", "restart", options, returns=FleetStatus)
        assert status.roll is not None
        assert status.roll.id == "r1"
    with pytest.raises(RemoteError, match="is under way"):
        await hub.call("coordinator", "restart", options.model_copy(update={"id": "r2"}), returns=FleetStatus)
    assert (await restart(bench, services=("store",))).state == "done"
    assert len(hands.log) == 4


@pytest.mark.parametrize("line", ["-store-1", "+store-1@new", "-store-2", "+store-2@new"])
async def test_a_successor_finishes_a_rolling_restart(
    bench: Bench, hands: Hands, log: list[bytes], tmp_path: Path, line: str
) -> None:
    """S2, S13: the coordinator dies at each step in turn; its successor goes on with it, no process is started twice, and
    what is down because of it is reported as no failure of the start."""
    hub = await bench.hub("operator")
    options = RestartOptions(id="r1", services=("store",), stable_for=0.3)
    await hub.call("coordinator", "restart", options, returns=FleetStatus)
    async with asyncio.timeout(10):
        while line not in hands.log:
            await asyncio.sleep(0.005)
    bench.kill("coordinator-1")
    policy = LeadershipPolicy(watch_interval=0.05, greeting=0.1, pause=0.05)
    fleet, history = parse_fleet(FLEET, "shop.yaml"), tmp_path / "history.db"
    successor = Coordinator(fleet, journal=MemoryJournal(log), history=history, policy=policy)
    await bench.start(successor, instance="coordinator-2")
    assert (await hub.call("coordinator", "status", returns=FleetStatus)).report == ()
    roll = await restart(bench, services=("store",))
    assert (roll.state, roll.reason) == ("done", "")
    # That the end is asked for once more is no harm: whoever is gone stays gone.
    assert list(dict.fromkeys(hands.log)) == ["-store-1", "+store-1@new", "-store-2", "+store-2@new"]
    assert len([done for done in hands.log if done.startswith("+")]) == 2


async def test_a_successor_takes_nobody_for_failed(bench: Bench, hands: Hands, log: list[bytes]) -> None:
    """S2: all who are well have to be asked by the new leader, and nobody is told of that as a failure: what it says first is
    that the fleet is up, with the profile and without a report."""
    hub = await bench.hub("operator")
    async with FleetWatch(hub, every=0.005) as watch:
        bench.kill("coordinator-1")
        policy = LeadershipPolicy(watch_interval=0.05, greeting=0.1, pause=0.05)
        successor = Coordinator(parse_fleet(FLEET, "shop.yaml"), journal=MemoryJournal(log), policy=policy)
        await bench.start(successor, instance="coordinator-2")
        first = await hub.call("coordinator", "status", returns=FleetStatus)
        async with asyncio.timeout(10):
            while (status := await watch.next()).sequence < first.sequence or status.epoch < first.epoch:
                assert {service.state for service in status.services} == {"ready"}
    assert (first.state, first.report) == ("up", ())
    assert {service.state for service in first.services} == {"ready"}
    assert first.profile is not None
    assert first.profile["outcome"] == "succeeded"


async def test_a_process_that_came_while_nobody_led_is_started(bench: Bench, hands: Hands, log: list[bytes]) -> None:
    """S2, S13: it announced itself to a dead coordinator, and the supervisor has it already when the successor asks for it: the
    START reaches it all the same."""
    hub = await bench.hub("operator")
    hands.may_run.clear()
    await hub.call("coordinator", "restart", RestartOptions(id="r1", services=("store",), stable_for=0.1), returns=FleetStatus)
    async with asyncio.timeout(10):
        while "+store-1@new" not in hands.log:
            await asyncio.sleep(0.005)
    bench.kill("coordinator-1")
    hands.may_run.set()
    async with asyncio.timeout(10):
        while not any(instance.id == "store-1" for instance in await hub.find("store")):
            await asyncio.sleep(0.005)
    policy = LeadershipPolicy(watch_interval=0.05, greeting=0.1, pause=0.05)
    successor = Coordinator(parse_fleet(FLEET, "shop.yaml"), journal=MemoryJournal(log), policy=policy)
    await bench.start(successor, instance="coordinator-2")
    roll = await restart(bench, services=("store",))
    assert roll.state == "done"
    assert hands.log == ["-store-1", "+store-1@new", "-store-2", "+store-2@new"]


async def test_pause_and_abort(bench: Bench, hands: Hands) -> None:
    """A pause begins no other step; an abort without going back leaves every instance up, some old and some new."""
    hub = await bench.hub("operator")
    await hub.call("coordinator", "restart", RestartOptions(id="r1", services=("store",), stable_for=0.0), returns=FleetStatus)
    paused = await hub.call("coordinator", "pause_restart", returns=FleetStatus)
    assert paused.roll is not None
    await hub.call("coordinator", "abort_restart", {"revert": False}, returns=FleetStatus)
    roll = await restart(bench, services=("store",))
    assert roll.state == "aborted"
    assert set(hands.running) == {"store-1", "store-2", "web-1"}


async def test_a_refused_restart_in_the_journal_refuses_no_successor(bench: Bench) -> None:
    """S2: a restart that was possible when it was asked for and not when its turn came is in the journal; whoever replays it
    goes on after it."""
    fleet = parse_fleet(FLEET, "shop.yaml")
    log: list[bytes] = []
    journal = MemoryJournal(log)
    await journal.claim("coordinator-0", 1)
    run = RunRequested(run="r", services=tuple(fleet.definitions), stages=fleet.stages)
    refused = RollRequested(roll="r1", services=("store",))
    await journal.append([(run, 1.0), (refused, 2.0), (CancelRequested(reason="no more"), 3.0)])
    await bench.start(Store(), managed=True, instance="store-1")
    coordinator = await bench.start(Coordinator(fleet, journal=MemoryJournal(log)))
    assert coordinator.health.is_ok


async def test_without_a_supervisor_it_is_refused(bench: Bench) -> None:
    """Where nobody starts processes nothing is touched, and the refusal says who would have to."""
    await bench.start(Coordinator(parse_fleet(FLEET, "shop.yaml")))
    hub = await bench.hub("operator")
    with pytest.raises(RemoteError, match="there was no run"):
        await hub.call("coordinator", "restart", RestartOptions(id="r1", services=("store",)), returns=FleetStatus)
    for instance in ("store-1", "store-2"):
        await bench.start(Store(), managed=True, instance=instance)
    await bench.start(Web(), managed=True, instance="web-1")
    status = await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    async with asyncio.timeout(10):
        while not status.state.is_settled:
            await asyncio.sleep(0.02)
            status = await hub.call("coordinator", "status", returns=FleetStatus)
    with pytest.raises(RemoteError, match="nobody here can start processes anew") as refused:
        await hub.call("coordinator", "restart", RestartOptions(id="r1", services=("store",)), returns=FleetStatus)
    assert refused.value.code == "coordinator.no-supervisor"
