"""Instances that are killed, told to stop or kept busy, as processes of their own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiormq
import pytest

from fabric.config import Settings
from fabric.contract import contract_of
from fabric.errors import CallError
from fabric.hub import Hub
from fabric.routing.registry import Happening
from fabric.transports.amqp_durable import dead_letter_queue, delay_queue
from fabric.transports.embedded_server import EmbeddedServer
from fabric.transports.topology import Topology
from tests.brokers.node import BrokerNode
from tests.cells import Cell, Cells, cells
from tests.contract.conftest import socket_path

__all__ = ["socket_path"]

pytestmark = pytest.mark.processes
SECONDS = 30.0
HEARTBEAT = 0.25
GRACE = 20.0


class Bus:
    """A broker that real processes reach, and a caller on it."""

    def __init__(self, fleet: Cells, hub: Hub) -> None:
        self.fleet, self.hub = fleet, hub

    async def start(self, *instances: str) -> None:
        """Start them, and wait until the caller knows that they take calls."""
        for instance in instances:
            await self.fleet.start(instance)
        await self.until(lambda: {i.id for i in self.hub.registry.instances("cell") if i.takes_calls} >= set(instances))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def bus_on(url: str, namespace: str, folder: Path, heartbeat: float = HEARTBEAT) -> AsyncIterator[Bus]:
    settings = Settings.model_validate({"broker_url": url, "namespace": namespace, "heartbeat_interval": heartbeat})
    async with (
        cells(url, namespace, folder, FABRIC_HEARTBEAT_INTERVAL=str(heartbeat), FABRIC_DRAIN_TIMEOUT=str(GRACE)) as fleet,
        Hub.connect("caller", settings=settings) as hub,
    ):
        await hub.discover_all()
        yield Bus(fleet, hub)


@pytest.fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.broker)])
def broker_kind(request: pytest.FixtureRequest) -> str:
    if request.param == "amqp":
        request.getfixturevalue("broker")  # before the loop runs: starting one blocks
    return str(request.param)


@pytest.fixture
async def bus(broker_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    if broker_kind == "embedded":
        path: Path = request.getfixturevalue("socket_path")
        async with EmbeddedServer(path), bus_on(f"unix://{path}", namespace, tmp_path) as made:
            yield made
        return
    node: BrokerNode = request.getfixturevalue("broker")
    try:
        async with bus_on(node.url, namespace, tmp_path) as made:
            yield made
    finally:
        await _forget(node, Topology(namespace))


async def _forget(node: BrokerNode, topology: Topology) -> None:
    """Leave nothing durable on the broker."""
    queue = topology.event_group("cell", (), group="default", prefetch=1, max_attempts=1, retry_delays=(1.0,)).name
    assert queue is not None
    (handler,) = contract_of(Cell).groups["default"]
    assert handler.options is not None
    async with aiormq.connect(node.url) as connection:
        channel = await connection.channel()
        for name in (queue, dead_letter_queue(queue), *(delay_queue(queue, pause) for pause in handler.options.retry_delays)):
            await channel.queue_delete(name)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)


async def outcome(call: object) -> str:
    """The answer, or the name of the error."""
    try:
        return str(await call)  # type: ignore[misc]
    except CallError as error:
        return type(error).__name__


async def test_one_of_three_is_killed_with_calls_under_way(bus: Bus) -> None:
    """M7 (moleculer#399, celery#4671): kill -9 on one of three processes, each in the middle of calls: idempotent ones succeed
    elsewhere, the victim's others end as InstanceLost long before their deadline, and those ran once."""
    await bus.start("one", "two", "three")
    calls = {
        id: asyncio.create_task(outcome(bus.hub.call("cell", "hold", {"id": id}, timeout=60.0, idempotent=id[0] == "i")))
        for id in (f"{kind}{number}" for kind in "io" for number in range(30))
    }
    await bus.until(lambda: bus.fleet.noted("held").total() == 60)
    first = bus.fleet.where("held")
    await bus.fleet.kill("one")
    victims = {id for id, instance in first.items() if instance == "one"}
    assert len(victims) == 20
    assert {await calls[id] for id in victims if id[0] == "o"} == {"InstanceLost"}
    await bus.until(lambda: bus.fleet.noted("held").total() == 70)
    assert not any(call.done() for id, call in calls.items() if id not in victims or id[0] == "i")
    bus.fleet.open_gate()
    ended = {id: await call for id, call in calls.items()}
    assert all(ended[id] in ("two", "three") for id in ended if id[0] == "i")
    assert all(ended[id] == first[id] for id in ended.keys() - victims)
    times = bus.fleet.noted("held")
    assert all(times[id] == (2 if id in victims and id[0] == "i" else 1) for id in ended)
    assert bus.hub.pending == 0


async def test_sigterm_with_calls_running_and_waiting(bus: Bus) -> None:
    """M25 (faststream#1648): SIGTERM to a process with 50 calls and 50 events running and 200 of each waiting: what runs ends
    there, what waits goes elsewhere, each ran once and each call has its one answer; the process ends within its grace."""
    await bus.start("old")
    calls = {id: asyncio.create_task(bus.hub.call("cell", "hold", {"id": id}, timeout=60.0)) for id in names("c", 250)}
    await asyncio.gather(*(bus.hub.publish("cell.work", id) for id in names("e", 250)))
    await bus.until(lambda: bus.fleet.noted("held").total() == 100)
    await bus.until(lambda: bus.hub.registry.instances("cell")[0].load == 250)
    await bus.start("new")
    running = {id for id, instance in bus.fleet.where("held").items() if instance == "old"}
    assert len(running) == 100
    old = bus.fleet.terminate("old")
    await bus.until(lambda: bus.fleet.noted("held").total() == 200)
    assert old.returncode is None, "it waits for what runs"
    bus.fleet.open_gate()
    async with asyncio.timeout(GRACE):
        assert await old.wait() == 0
    answers = {id: await call for id, call in calls.items()}
    await bus.until(lambda: bus.fleet.noted("done").total() == 500)
    where = bus.fleet.where("done")
    assert {id for id, instance in where.items() if instance == "old"} == running
    assert all(answer == where[id] for id, answer in answers.items())
    assert set(bus.fleet.noted("held").values()) == set(bus.fleet.noted("done").values()) == {1}


async def test_a_process_that_burns_the_processor(bus: Bus) -> None:
    """M21 (moleculer#891): a handler keeps its process from everything else for four times as long as heartbeats may be missed:
    it is busy, not dead; others are called meanwhile, its answer counts, and then it is called again."""
    await burn(bus, 12 * HEARTBEAT)


@pytest.mark.chaos
async def test_a_process_that_burns_the_processor_for_twenty_seconds(broker: BrokerNode, tmp_path: Path) -> None:
    """M21 (moleculer#891): the same in full, 20 s with the settings that everybody gets."""
    async with bus_on(broker.url, f"e2e-{uuid.uuid4().hex[:8]}", tmp_path, heartbeat=2.0) as bus:
        await burn(bus, 20.0)


async def burn(bus: Bus, seconds: float) -> None:
    await bus.start("busy", "idle")
    happened: list[Happening] = []
    bus.hub.registry.watch(lambda event: happened.append(event.happening))
    ashes = asyncio.create_task(bus.hub.call("cell", "burn", {"seconds": seconds}, instance="busy", timeout=60.0))
    await bus.until(lambda: bus.fleet.noted("burning").total() == 1)
    await bus.until(lambda: (endpoint := bus.hub.registry.get("busy")) is not None and endpoint.suspect)
    answers = await asyncio.gather(*(bus.hub.call("cell", "safe", {"id": id}, timeout=60.0) for id in names("s", 100)))
    assert answers == names("s", 100)
    assert not ashes.done(), "they did not wait for it"
    assert await ashes == "ashes"
    await bus.until(lambda: (endpoint := bus.hub.registry.get("busy")) is not None and not endpoint.suspect)
    assert await bus.hub.call("cell", "safe", {"id": "after"}, instance="busy") == "after"
    assert not {Happening.LOST, Happening.LEFT} & set(happened)
    assert bus.fleet.noted("burning") == {"0": 1}


def names(kind: str, count: int) -> list[str]:
    return [f"{kind}{number}" for number in range(count)]
