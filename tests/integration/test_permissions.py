"""A fleet whose services are users of their own, with the permissions that ``fabric permissions`` prints, on RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import shlex
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiormq
import httpx
import pytest
from aiormq.abc import AbstractChannel
from pamqp import commands as amqp

import services.todo
from fabric import Health, Service, on_broadcast, on_event, rpc
from fabric.cli.progress import FleetWatch
from fabric.config import Settings
from fabric.contract import ServiceContract, contract_of
from fabric.coordination.agent import Agent
from fabric.coordination.contracts import contracts_of
from fabric.coordination.coordinator import Coordinator
from fabric.coordination.fleet import load_fleet, parse_fleet
from fabric.coordination.host import load_service
from fabric.coordination.permissions import Grant, commands, definitions, grants
from fabric.coordination.processes import SUPERVISOR, Processes, Versions
from fabric.coordination.status import FleetStatus, RunState, UpOptions
from fabric.hub import Hub
from fabric.transports import topology as keys
from fabric.transports.amqp_doctor import examine
from fabric.transports.amqp_durable import dead_letter_queue
from fabric.transports.amqp_facts import Wanted
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.diagnosis import Level, worst
from fabric.transports.topology import Topology
from services.todo.fleet_contracts import GatewayAddress, PolicyChange
from services.todo.tour import Visitor
from tests.brokers.inbox import Inbox
from tests.brokers.leftovers import remove
from tests.brokers.node import BrokerNode
from tests.brokers.users import add_users, delete_users, import_definitions, url_of

REFERENCE = Path(services.todo.__file__).parent / "fleet.yaml"

FLEET = """
name: shop
services:
  store: {critical: true, timeout: 10s, run: "x:Store"}
  mailer: {critical: true, timeout: 10s, run: "x:Mailer", dependencies: [store]}
stages:
  - {name: all, services: [store, mailer], gate: {required: [store, mailer]}, timeout: 30s}
"""


class Store(Service):
    name, capabilities = "store", ("counting",)

    async def check_health(self) -> Health:
        return Health.ok()

    @rpc()
    async def sell(self, order: str) -> str:
        await self.hub.publish("order.sold", {"order": order})
        self.hub.broadcast("stock.changed", {"order": order})
        return order.upper()


class Mailer(Service):
    name = "mailer"

    def __init__(self, mailed: Inbox[tuple[str, str]]) -> None:
        self.mailed, self.broken = mailed, True

    async def check_health(self) -> Health:
        return Health.ok()

    @on_event("order.*", max_attempts=2, retry_delays=(0.05,))
    async def order(self, event: dict[str, Any]) -> None:
        if event["order"] == "broken" and self.broken:
            raise ValueError("no address")
        self.mailed(("event", event["order"]))

    @on_broadcast("stock.*")
    async def stock(self, event: dict[str, Any]) -> None:
        self.mailed(("broadcast", event["order"]))


@dataclass
class Shop:
    """A namespace, in which the users of the fleet have their permissions."""

    node: BrokerNode
    topology: Topology
    grants: list[Grant]

    @property
    def settings(self) -> Settings:
        return Settings(broker_url=None, namespace=self.topology.namespace, instance="", heartbeat_interval=0.5)

    @asynccontextmanager
    async def hub(self, user: str) -> AsyncIterator[Hub]:
        async with Hub.connect(user, url=url_of(self.node, user), settings=self.settings) as hub:
            yield hub

    @asynccontextmanager
    async def run(self, *services: Service, managed: bool = False) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for service in services:
                agent = Agent(await stack.enter_async_context(self.hub(service.name)), service)
                stack.push_async_callback(agent.aclose)
                await agent.open(managed=managed)
            yield

    async def as_user(self, user: str, ask: Callable[[AbstractChannel], Awaitable[Any]]) -> str:
        """What the broker says to it; "" if it did it."""
        async with aiormq.connect(url_of(self.node, user)) as connection:
            channel = await connection.channel()
            try:
                await ask(channel)
            except aiormq.exceptions.ChannelAccessRefused as error:
                return str(error)
            return ""


@contextmanager
def permitted(node: BrokerNode, contracts: Mapping[str, ServiceContract | None], clients: tuple[str, ...]) -> Iterator[Shop]:
    """Users with what is granted to them, and nothing that was granted to them before. Blocks."""
    topology = Topology(f"test-{uuid.uuid4().hex[:12]}")
    found = grants(contracts, topology, capabilities={}, clients=clients)
    users = {each.user: ("^$", "^$", "^$") for each in found}
    add_users(node, users)
    try:
        import_definitions(node, definitions(found, topology, "/"))
        yield Shop(node, topology, found)
    finally:
        delete_users(node, users)
        asyncio.run(remove(node.url, topology, contracts, delays=(0.05, 0.2, 1.0, 5.0, 30.0)))


@pytest.fixture
def shop(private_broker: BrokerNode) -> Iterator[Shop]:
    with permitted(private_broker, {"store": contract_of(Store), "mailer": contract_of(Mailer)}, ("web",)) as shop:
        yield shop


@pytest.fixture
def reference(private_broker: BrokerNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """For the reference fleet and a visitor."""
    monkeypatch.setenv("FABRIC_DATA_DIR", str(tmp_path))
    contracts = {**contracts_of(load_fleet(REFERENCE)), Visitor.name: contract_of(Visitor)}
    with permitted(private_broker, contracts, ()) as shop:
        yield shop


async def up(hub: Hub) -> RunState:
    """Ask for a run and wait until it has settled."""
    await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
    async with asyncio.timeout(60):
        while not (status := await hub.call("coordinator", "status", returns=FleetStatus)).state.is_settled:
            pass
    return status.state


async def test_a_fleet_works_with_the_least_permissions(shop: Shop) -> None:
    """With a user for each service and only what `fabric permissions` grants, commands and votes bring the fleet up, calls,
    events, broadcasts, retries and dead letters work, and the command line sees and replays what was given up."""
    mailed: Inbox[tuple[str, str]] = Inbox()
    mailer = Mailer(mailed)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(shop.run(Coordinator(parse_fleet(FLEET, "shop.yaml"))))
        await stack.enter_async_context(shop.run(Store(), mailer, managed=True))
        line = await stack.enter_async_context(shop.hub("fabric-cli"))
        assert await up(line) is RunState.UP
        web = await stack.enter_async_context(shop.hub("web"))
        assert await web.call("store", "sell", {"order": "book"}) == "BOOK"
        assert await web.call_by_capability("counting", "sell", {"order": "pen"}) == "PEN"
        await mailed.reaches(4)
        assert sorted(mailed.all) == [("broadcast", "book"), ("broadcast", "pen"), ("event", "book"), ("event", "pen")]

        await web.publish("order.sold", {"order": "broken"})
        async with asyncio.timeout(20):
            while not (letters := await line.dead_letters("mailer").list()):
                pass
        (letter,) = letters
        assert (letter.reason, letter.attempts, letter.key) == ("ValueError: no address", 2, "order.sold")
        assert [entry["reason"] for entry in letter.history] == ["ValueError: no address"] * 2
        mailer.broken = False
        assert await line.dead_letters("mailer").replay(letter.id)
        await mailed.reaches(5)
        assert mailed.all[-1] == ("event", "broken")
        assert await line.dead_letters("mailer").list() == []


async def test_the_supervisor(shop: Shop) -> None:
    """`fabric up`, which connects as the coordinator's user, is found and called as the supervisor and hears the progress."""

    class Supervisor(Service):
        name = SUPERVISOR

        @rpc(idempotent=True)
        async def prepare(self, services: list[str]) -> Versions:
            return Versions(version=",".join(services), previous="")

    url = url_of(shop.node, "coordinator")
    async with (
        shop.run(Coordinator(parse_fleet(FLEET, "shop.yaml"))),
        Hub.connect(SUPERVISOR, url=url, settings=shop.settings) as hub,
        FleetWatch(hub) as watch,
    ):
        served = await hub.serve(Supervisor())
        await served.open_doors()
        try:
            async with shop.hub("coordinator") as lead:
                assert (await Processes(lead).prepare(("store",))).version == "store"
            await hub.call("coordinator", "up", UpOptions(), returns=FleetStatus)
            async with asyncio.timeout(10):
                assert (await watch.next()).fleet == "shop"
        finally:
            await served.aclose()


async def test_the_reference_fleet(reference: Shop) -> None:
    """All services of the reference fleet, each as a user of its own, come up by commands and votes; a to-do made at the gateway
    becomes calls and an event that others hear, and a changed policy a broadcast."""
    fleet = load_fleet(REFERENCE)
    everybody = [load_service(run.target)() for run in fleet.runs.values() if run.target]
    visitor = Visitor()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(reference.run(Coordinator(fleet)))
        await stack.enter_async_context(reference.run(*everybody, managed=True))
        await stack.enter_async_context(reference.run(visitor))
        line = await stack.enter_async_context(reference.hub("fabric-cli"))
        assert await up(line) is RunState.UP
        gateway = await line.call("api-gateway", "where", returns=GatewayAddress)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20.0) as http:
            made = (await http.post("/todos", json={"title": "Buy milk"})).json()
            await http.patch(f"/todos/{made['id']}", json={"done": True})
        async with asyncio.timeout(10):
            assert (await visitor.completed.get()).stream.endswith(made["id"])
        change = PolicyChange(service="email-service", balancing="least-connections", timeout=5.0)
        await line.call("service-mesh", "set_policy", change)
        async with asyncio.timeout(10):
            assert (await visitor.policies.get()).balancing == "least-connections"
        assert visitor.progress.qsize()


async def test_what_is_not_granted_is_refused(shop: Shop) -> None:
    """A service can't consume, make, empty or delete another's queue, hear its events or commands, command it, vote in its name,
    be found in its place, or remove an exchange."""
    names = shop.topology
    foreign = f"{names.events}.mailer.default"
    async with shop.run(Mailer(Inbox())):
        pass

    async def publish(channel: AbstractChannel, exchange: str, key: str) -> None:
        await channel.basic_publish(b"", exchange=exchange, routing_key=key)

    async def listen(channel: AbstractChannel, exchange: str, key: str) -> None:
        answer = await channel.queue_declare("", exclusive=True)
        await channel.queue_bind(str(answer.queue), exchange, key)

    async def nobody(message: object) -> None: ...

    refused: dict[str, Callable[[AbstractChannel], Awaitable[Any]]] = {
        "consume": lambda channel: channel.basic_consume(foreign, nobody),
        "get": lambda channel: channel.basic_get(foreign),
        "get a dead letter": lambda channel: channel.basic_get(dead_letter_queue(foreign)),
        "make": lambda channel: channel.queue_declare(f"{names.events}.mailer.mine", durable=True),
        "empty": lambda channel: channel.queue_purge(foreign),
        "delete": lambda channel: channel.queue_delete(foreign),
        "write to it by name": lambda channel: publish(channel, "", foreign),
        "hear events": lambda channel: listen(channel, names.events, "order.*"),
        "hear commands": lambda channel: listen(channel, names.control, keys.command("mailer")),
        "hear everything": lambda channel: listen(channel, names.control, "#"),
        "hear questions for another": lambda channel: listen(channel, names.discovery, keys.who_service("mailer")),
        "command": lambda channel: publish(channel, names.control, keys.command("mailer")),
        "vote for another": lambda channel: publish(channel, names.control, keys.vote("mailer")),
        "be found as another": lambda channel: publish(channel, names.discovery, keys.up_service("mailer")),
        "remove an exchange": lambda channel: channel.exchange_delete(names.rpc),
        "make an exchange": lambda channel: channel.exchange_declare(f"{names.namespace}.mine"),
    }
    for what, ask in refused.items():
        assert await shop.as_user("store", ask), f"store could {what}"
    for ask in (
        lambda channel: publish(channel, names.control, keys.vote("store")),
        lambda channel: publish(channel, names.events, "order.sold"),
        lambda channel: listen(channel, names.control, keys.command("store")),
    ):
        assert not await shop.as_user("store", ask)
    assert await shop.as_user("web", lambda channel: publish(channel, names.control, keys.command("store")))


async def test_nobody_publishes_in_another_name(shop: Shop) -> None:
    """The broker itself refuses a message that names another user than the one who sent it."""
    async with aiormq.connect(url_of(shop.node, "store")) as connection:
        channel = await connection.channel()
        properties = amqp.Basic.Properties(user_id="mailer")
        with pytest.raises(aiormq.exceptions.ChannelPreconditionFailed, match="user_id"):
            await channel.basic_publish(b"", exchange=shop.topology.rpc, routing_key="x", properties=properties)


async def test_the_doctor_agrees(shop: Shop) -> None:
    """`fabric doctor --service` finds nothing wrong with a user that has what was granted, and names what another lacks."""
    needs: dict[str, tuple[tuple[str, ...], bool]] = {
        "store": ((), False),
        "coordinator": ((), True),
        "mailer": (("order.*",), True),
    }
    for service, (topics, broadcasts) in needs.items():
        wanted = Wanted(topology=shop.topology, service=service, patterns=topics, broadcasts=broadcasts, message_bytes=1000)
        found = await examine(AmqpSettings.from_url(url_of(shop.node, service)), wanted)
        assert worst(found) is Level.OK, [finding for finding in found if finding.level is not Level.OK]
        assert any("may do" in finding.message for finding in found)
    found = await examine(AmqpSettings.from_url(url_of(shop.node, "store")), wanted)
    told = " ".join(finding.message for finding in found if finding.level is Level.FAIL)
    assert "declare the durable queue" in told
    assert keys.vote("mailer") in told


def test_the_printed_commands_do_it(shop: Shop) -> None:
    """The lines that `fabric permissions` prints, run as they stand, leave the broker with what the definitions say."""
    (mailer,) = (each for each in shop.grants if each.user == "mailer")
    cleared = replace(mailer, configure="^$", write="^$", read="^$", topics=())
    import_definitions(shop.node, definitions([cleared], shop.topology, "/"))
    for line in commands([mailer], "/", add_users=False):
        program, *arguments = shlex.split(line)
        assert program == "rabbitmqctl"
        shop.node.ctl(*arguments)
    (rights,) = json.loads(shop.node.ctl("list_user_permissions", "mailer", "--formatter", "json"))
    assert (rights["configure"], rights["write"], rights["read"]) == (mailer.configure, mailer.write, mailer.read)
    topics = json.loads(shop.node.ctl("list_user_topic_permissions", "mailer", "--formatter", "json"))
    granted = {(topic.exchange, topic.write, topic.read) for topic in mailer.topics}
    assert {(each["exchange"], each["write"], each["read"]) for each in topics} == granted
