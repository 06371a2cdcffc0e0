"""`fabric up` on RabbitMQ, each process a user of its own with no more than `fabric permissions` prints."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.cli.exits import ExitCode
from fabric.transports.topology import Topology
from tests.brokers.leftovers import remove
from tests.brokers.node import BrokerNode
from tests.brokers.users import add_users, delete_users, import_definitions, url_of
from tests.e2e.shop import Shop, read_until, until

pytestmark = pytest.mark.processes

FLEET = """\
name: shop
services:
  clerk: {run: "privileged:Clerk", critical: true, env: {FABRIC_BROKER_URL_FILE: clerk.url}}
  mailer: {run: "privileged:Mailer", critical: true, dependencies: [clerk], env: {FABRIC_BROKER_URL_FILE: mailer.url}}
stages:
  - {name: all, services: [clerk, mailer], gate: {required: [clerk, mailer]}}
"""

SERVICES = """\
from fabric import Service, on_event, rpc


class Clerk(Service):
    name = "clerk"

    @rpc(callers=("fabric-cli",))
    async def sell(self, item: str) -> None:
        await self.hub.publish("order.sold", item)
        await self.hub.publish("order.due", item, delay=0.2)


class Mailer(Service):
    name, dependencies = "mailer", ("clerk",)

    def __init__(self) -> None:
        self.heard = []

    @on_event("order.*")
    async def order(self, item: str) -> None:
        self.heard.append(item)

    @rpc()
    async def mails(self) -> list[str]:
        return self.heard
"""

USERS = ("clerk", "mailer", "coordinator", "fabric-cli")


@pytest.fixture
def topology() -> Topology:
    return Topology(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def shop(private_broker: BrokerNode, topology: Topology, tmp_path: Path) -> Iterator[Shop]:
    """Its users have what `fabric broker permissions --json` says. The URL of each is in a file."""
    shop = Shop(tmp_path)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "privileged.py").write_text(SERVICES)
    for user in USERS:
        (tmp_path / f"{user}.url").write_text(url_of(private_broker, user))
    printed = shop.run("broker", "permissions", "fleet.yaml", "--namespace", topology.namespace, "--json")
    assert printed.returncode == ExitCode.OK, printed.stderr
    definitions = json.loads(printed.stdout)
    assert {each["user"] for each in definitions["permissions"]} == set(USERS)
    nothing = dict.fromkeys(USERS, ("^$", "^$", "^$"))
    add_users(private_broker, nothing)
    try:
        import_definitions(private_broker, definitions)
        yield shop
    finally:
        delete_users(private_broker, nothing)
        asyncio.run(remove(private_broker.url, topology, ("mailer",), delays=(0.2, 1.0, 5.0, 30.0), held=(200,)))


def test_a_fleet_of_processes(shop: Shop, private_broker: BrokerNode, topology: Topology) -> None:
    """The fleet comes up, keeps its journal in a stream of the broker's, publishes at once and with a delay, has one service
    restarted by the supervisor, tells callers apart, and goes down; each process is the user that it should be."""
    names = ("--namespace", topology.namespace)
    line = ("--broker-url", url_of(private_broker, "fabric-cli"), *names)
    with shop.up(*names, broker_url=url_of(private_broker, "coordinator")) as up:
        read_until(up, "Ctrl-C stops it")
        linked = private_broker.ctl("list_connections", "user").split()
        assert set(USERS) - {"fabric-cli"} <= set(linked)

        sold = shop.run("call", "clerk", "sell", '{"item": "pen"}', *line)
        assert sold.returncode == ExitCode.OK, sold.stderr
        until(lambda: json.loads(shop.run("call", "mailer", "mails", *line).stdout) == ["pen", "pen"])
        stranger = ("--broker-url", url_of(private_broker, "mailer"), *names)
        refused = shop.run("call", "clerk", "sell", '{"item": "pen"}', *stranger)
        assert refused.returncode == ExitCode.CONFIGURATION
        assert "not for 'mailer'" in refused.stderr

        restarted = shop.run("restart", "mailer", "--stable-for", "0", *line)
        assert restarted.returncode == ExitCode.OK, restarted.stdout + restarted.stderr
        assert json.loads(shop.run("call", "mailer", "mails", *line).stdout) == []
        queues = dict(each.split("\t") for each in private_broker.ctl("list_queues", "name", "messages").splitlines()[1:])
        assert int(queues[topology.journal]) > 0
        down = shop.run("down")
        assert down.returncode == ExitCode.OK, down.stderr
        assert up.wait(60) == ExitCode.OK
    logs = "".join(log.read_text() for log in (shop.root / ".fabric" / "shop" / "logs").iterdir())
    assert "no journal" not in logs
    assert "ACCESS_REFUSED" not in logs
    assert "only for tests" not in logs.replace("%20", " "), "a password was logged"
