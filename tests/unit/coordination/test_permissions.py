"""Permissions of a fleet on RabbitMQ: everything that is needed, and nothing else."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabric import Service, on_broadcast, on_event, rpc
from fabric.contract import contract_of
from fabric.coordination.contracts import contracts_of, event_queues
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.permissions import Grant, commands, definitions, grants, password_variable
from fabric.errors import ConfigurationError
from fabric.transports.topology import Topology, command, up_capability, up_service, vote, who_capability, who_service

SHOP = Topology("shop")


class Store(Service):
    name = "store"
    capabilities = ("counting",)

    @rpc()
    async def add(self) -> int:
        return 1


class Mailer(Service):
    name = "mailer"

    @on_event("order.*")
    async def order(self, event: dict[str, Any]) -> None: ...

    @on_event("user.#", group="users")
    async def user(self, event: dict[str, Any]) -> None: ...

    @on_broadcast("policy.changed")
    async def policy(self, event: dict[str, Any]) -> None: ...


def of(user: str) -> Grant:
    contracts = {"store": contract_of(Store), "mailer": contract_of(Mailer), "foreign": None}
    found = grants(contracts, SHOP, capabilities={"store": ("storing",)}, clients=("web",))
    assert [each.user for each in found] == ["store", "mailer", "foreign", "coordinator", "fabric-cli", "web"]
    return next(each for each in found if each.user == user)


def may(pattern: str, *names: str) -> list[bool]:
    """RabbitMQ looks for a pattern anywhere in a name, so each has to bring its own ends."""
    return [re.search(pattern, name) is not None for name in names]


def topic(each: Grant, exchange: str) -> tuple[str, str]:
    return next((found.write, found.read) for found in each.topics if found.exchange == exchange)


def test_a_service_without_events() -> None:
    """It has its inboxes and the exchanges, makes no exchange, and gets no events, broadcasts or default exchange."""
    store = of("store")
    assert may(store.configure, "amq.gen-xyz", "shop.rpc", "shop.events.store.default", "amq.genuine") == [
        True,
        False,
        False,
        False,
    ]
    assert may(store.write, "shop.rpc", "shop.events", "shop.broadcast", "shop.control", "shop.discovery") == [True] * 5
    assert may(store.write, "amq.default", "shop.events.mailer.default", "shopXrpc", "my-shop.rpc", "shop.rpc2") == [False] * 5
    assert may(store.read, "amq.gen-xyz", "shop.rpc", "shop.discovery", "shop.control") == [True] * 4
    assert may(store.read, "shop.broadcast", "shop.events.mailer.default") == [False] * 2


def test_a_service_with_events() -> None:
    """It has its own durable queues with their dead letters and delays, and nobody else's."""
    mailer = of("mailer")
    own = [f"shop.events.mailer.{queue}" for queue in ("default", "users", "default.dead", "users.retry.200")]
    others = ["shop.events.mailer2.default", "shop.events.store.default", "shop.events", "other.events.mailer.default"]
    for pattern in (mailer.configure, mailer.write, mailer.read):
        assert may(pattern, *own) == [True] * 4
    assert may(mailer.configure, *others) == [False] * 4
    assert may(mailer.read, *others) == [False, False, True, False]
    assert may(mailer.write, "amq.default") == [True]
    assert may(mailer.read, "shop.broadcast") == [True]


def test_keys_of_a_service() -> None:
    """It can't command or vote for others, be found as another, or subscribe to what its class does not."""
    write, read = topic(of("store"), SHOP.control)
    assert may(write, vote("store"), vote("mailer"), command("store"), "vote.#") == [True, False, False, False]
    assert may(read, command("store"), command("mailer"), "#", "command.#") == [True, False, False, False]
    write, read = topic(of("store"), SHOP.discovery)
    offered = [up_service("store"), up_capability("counting"), up_capability("storing")]
    assert may(write, *offered, who_service("mailer"), who_capability("any"), "who.everyone") == [True] * 6
    assert may(write, up_service("mailer"), up_capability("mailing")) == [False, False]
    assert may(read, who_service("store"), who_capability("counting"), "up.service.#", up_capability("x")) == [True] * 4
    assert may(read, who_service("mailer"), who_capability("mailing"), "#") == [False] * 3
    write, read = topic(of("mailer"), SHOP.events)
    assert may(read, "order.*", "user.#", "orderXmade", "order.made", "#") == [True, True, False, False, False]
    assert may(write, "anything.at.all") == [True]


def test_one_whose_class_is_unknown() -> None:
    """A service that a command starts gets what any service may need, of its own."""
    foreign = of("foreign")
    assert may(foreign.read, "shop.events.foreign.any", "shop.events", "shop.broadcast") == [True] * 3
    assert may(foreign.read, "shop.events.store.any") == [False]
    assert may(topic(foreign, SHOP.events)[1], "anything.#") == [True]


def test_the_coordinator_leads() -> None:
    """It alone makes exchanges, commands everybody and reads every vote."""
    lead = of("coordinator")
    assert may(lead.configure, "shop.rpc", "shop.discovery", "shop.events.mailer.default", "other.rpc") == [
        True,
        True,
        False,
        False,
    ]
    write, read = topic(lead, SHOP.control)
    assert may(write, command("store"), vote("store")) == [True, False]
    assert may(read, "vote.#", command("store")) == [True, False]


def test_the_coordinator_supervises() -> None:
    """`fabric up` is the coordinator's user: it is found as the supervisor, hears the progress, and stands for nobody else."""
    lead = of("coordinator")
    assert may(lead.read, "shop.broadcast") == [True]
    write, read = topic(lead, SHOP.discovery)
    assert may(write, up_service("fabric-supervisor"), up_service("coordinator"), up_service("store")) == [True, True, False]
    assert may(read, who_service("fabric-supervisor"), who_service("store")) == [True, False]


def test_the_command_line_and_clients() -> None:
    """The command line cares for everybody's dead letters; a client calls and publishes, and can't be found or commanded."""
    line = of("fabric-cli")
    assert may(line.read, "shop.events.mailer.default.dead", "shop.events.mailer.default", "shop.broadcast") == [
        True,
        False,
        True,
    ]
    assert may(line.write, "amq.default", "shop.rpc", "shop.events.mailer.default") == [True, True, False]
    assert topic(line, SHOP.control) == ("^$", "^$")
    web = of("web")
    assert may(web.write, "shop.rpc", "shop.events", "amq.default") == [True, True, False]
    assert topic(web, SHOP.control) == ("^$", "^$")
    assert may(topic(web, SHOP.discovery)[0], up_service("web"), who_service("store")) == [False, True]


def test_events_with_a_delay() -> None:
    """Who publishes may make what holds an event back and bind the sink, which lets it hear nothing else; unless it may not."""
    held = [SHOP.delayed(200), SHOP.delayed_sink, SHOP.delayed_sink_key, "shop.delayed.x", "other.delayed.200"]
    for user in ("store", "web", "coordinator", "fabric-cli"):
        each = of(user)
        for pattern in (each.configure, each.write, each.read):
            assert may(pattern, *held) == [True, True, False, False, False]
        assert may(each.read, SHOP.events) == [True]
        assert may(topic(each, SHOP.events)[1], SHOP.delayed_sink_key, "order.made", "#") == [True, False, False]
    (without, *_) = grants({"store": contract_of(Store)}, SHOP, capabilities={}, delays=False)
    for pattern in (without.configure, without.write, without.read):
        assert may(pattern, *held) == [False] * 5
    assert may(without.read, SHOP.events) == [False]


def test_definitions_and_commands_say_the_same() -> None:
    """Both forms grant the same; passwords are not in either."""
    found = [of("store"), of("mailer")]
    plain = definitions(found, SHOP, "prod")
    lines = commands(found, "prod", add_users=True)
    assert lines[0] == "printf '%s\\n' \"${FABRIC_PASSWORD_STORE:?}\" | rabbitmqctl add_user store"
    words = [shlex.split(line) for line in lines if "add_user" not in line]
    assert [line[4:] for line in words if line[1] == "set_permissions"] == [
        [each["user"], each["configure"], each["write"], each["read"]] for each in plain["permissions"]
    ]
    assert [line[4:] for line in words if line[1] == "set_topic_permissions"] == [
        [each["user"], each["exchange"], each["write"], each["read"]] for each in plain["topic_permissions"]
    ]
    assert all(line[2:4] == ["-p", "prod"] for line in words)
    assert [exchange["name"] for exchange in plain["exchanges"]] == [spec.name for spec in SHOP.exchanges]
    assert password_variable("fabric-cli") == "FABRIC_PASSWORD_FABRIC_CLI"


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with services in it, made the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "permitted_post.py").write_text(
        "from fabric import Service, on_event\n"
        "class Mailer(Service):\n"
        "    name = 'mailer'\n"
        "    @on_event('order.*', max_attempts=2)\n"
        "    async def order(self, event: dict) -> None: ...\n"
    )
    (tmp_path / "permitted_broken.py").write_text("1 / 0\n")
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    sys.modules.pop("permitted_post", None)


def test_contracts_are_read_from_the_classes(classes: Path) -> None:
    """What a service subscribes to is known without starting it; what can't be imported is told by its name."""
    fleet = parse_fleet("name: post\nservices:\n  mailer: {run: permitted_post:Mailer}\n  x: {command: [x]}\n", "fleet.yaml")
    contracts = contracts_of(fleet)
    assert contracts["x"] is None
    assert contracts["mailer"] is not None
    (queue,) = event_queues(contracts["mailer"], Topology("post"))
    assert (queue.name, queue.keys, queue.max_attempts) == ("post.events.mailer.default", ("order.*",), 2)
    broken = parse_fleet("name: post\nservices:\n  mailer: {run: permitted_broken:Mailer}\n", "fleet.yaml")
    with pytest.raises(ConfigurationError, match=r"'permitted_broken:Mailer' can't be imported: ZeroDivisionError"):
        contracts_of(broken)
