"""``fabric dead-letters`` on the embedded broker and on RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fabric import Service, on_event
from fabric.cli.main import main
from fabric.config import Settings
from fabric.coordination.agent import Agent
from fabric.hub import Hub
from fabric.transports.topology import Topology
from tests.brokers.inbox import Inbox
from tests.brokers.leftovers import remove
from tests.brokers.node import BrokerNode
from tests.unit.transports.socket_broker import BROKER, running


class Mailer(Service):
    """Can't mail the orders that are broken, until it is mended."""

    name = "mailer"

    def __init__(self, mailed: Inbox[str], *, mended: bool = False) -> None:
        self.mailed, self.mended = mailed, mended

    @on_event("order.*", max_attempts=2, retry_delays=(0.05,))
    async def confirm(self, event: dict[str, Any]) -> None:
        if event["broken"] and not self.mended:
            raise ValueError(f"no address in {event['order']}")
        self.mailed(event["order"])


@dataclass
class Shop:
    """A namespace on a broker, and the command line for it."""

    url: str
    settings: Settings
    capsys: pytest.CaptureFixture[str]

    def cli(self, *arguments: str) -> tuple[int, Any]:
        """Exit code, and the JSON that was printed."""
        where = ("--broker-url", self.url, "--namespace", self.settings.namespace, "--json")
        with pytest.raises(SystemExit) as ended:
            main(["dead-letters", *arguments, *where])
        streams = self.capsys.readouterr()
        return int(ended.value.code or 0), json.loads(streams.out or streams.err)

    async def run(self, mailer: Mailer, until: Callable[[Hub], Any]) -> None:
        """The service in this process until ``until`` is done."""
        async with Hub.connect("mailer", url=self.url, settings=self.settings) as hub:
            agent = Agent(hub, mailer)
            try:
                await agent.open(managed=False)
                await until(hub)
            finally:
                await agent.aclose()


@pytest.fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.broker)])
def shop(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shop]:
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    settings = Settings(broker_url=None, namespace=namespace, instance="")
    if request.param == "amqp":
        node: BrokerNode = request.getfixturevalue("broker")
        try:
            yield Shop(node.url, settings, capsys)
        finally:
            asyncio.run(remove(node.url, Topology(namespace), ("mailer",), delays=(0.05,)))
        return
    with asyncio.Runner() as runner:
        path = tmp_path / "b"
        broker = running(BROKER, path)
        runner.run(broker.__aenter__())
        try:
            yield Shop(f"unix://{path}", settings, capsys)
        finally:
            runner.run(broker.__aexit__(None, None, None))


async def fail_three(hub: Hub) -> None:
    """Two broken orders, one good one and bytes that are no message, all dealt with."""
    for order in ("o1", "o2", "o3"):
        await hub.publish("order.made", {"order": order, "broken": order != "o2"})
    await hub.transport.send(hub.topology.events, "order.\x1b[2J", b"\x80\x04junk", timeout=5, persistent=True)
    await three_dead(hub)


async def three_dead(hub: Hub) -> None:
    async with asyncio.timeout(20):
        while len(await hub.dead_letters("mailer").list()) < 3:
            pass


def test_dead_letters_are_seen_replayed_and_discarded(shop: Shop) -> None:
    """M26: what a service gave up is listed with reason, attempts and history; a discarded one is gone, a replayed one is handled
    once the service is mended, in any order of commands and processes."""
    first: Inbox[str] = Inbox()
    asyncio.run(shop.run(Mailer(first), fail_three))
    assert first.all == ["o2"]

    code, listed = shop.cli("list", "mailer")
    assert code == 0
    by_order = {letter.get("payload", {}).get("order"): letter for letter in listed}
    assert set(by_order) == {"o1", "o3", None}
    broken = by_order["o1"]
    assert (broken["topic"], broken["attempts"], broken["reason"]) == ("order.made", 2, "ValueError: no address in o1")
    assert [entry["reason"] for entry in broken["history"]] == ["ValueError: no address in o1"] * 2
    assert broken["message"]["from"] == "mailer"
    assert broken["queue"].endswith(".events.mailer.default")
    junk = by_order[None]
    assert (junk["attempts"], junk["bytes"]) == (1, 6)
    assert junk["problem"]
    assert len(shop.cli("list", "mailer", "--limit", "2")[1]) == 2
    assert shop.cli("show", "mailer", "--id", broken["id"]) == (0, broken)

    assert shop.cli("discard", "mailer", "--id", junk["id"]) == (0, {"discarded": [junk["id"]], "problem": None})
    code, error = shop.cli("discard", "mailer", "--id", junk["id"])
    assert (code, error["error"]["type"]) == (2, "UnknownName")

    code, told = shop.cli("replay", "mailer", "--all")
    assert (code, len(told["replayed"])) == (0, 2)
    second: Inbox[str] = Inbox()

    async def both(hub: Hub) -> None:
        await second.reaches(2)

    asyncio.run(shop.run(Mailer(second, mended=True), both))
    assert sorted(second.all) == ["o1", "o3"]
    assert shop.cli("list", "mailer") == (0, [])


def test_replay_of_what_fails_again_ends(shop: Shop) -> None:
    """`replay --all` while the service still fails replays each letter once, and leaves those that come back."""
    asyncio.run(shop.run(Mailer(Inbox()), fail_three))
    code, told = shop.cli("replay", "mailer", "--all")
    assert (code, len(told["replayed"])) == (0, 3)
    asyncio.run(shop.run(Mailer(Inbox()), three_dead))
    code, listed = shop.cli("list", "mailer")
    assert sorted(letter["attempts"] for letter in listed) == [1, 2, 2]


def test_a_service_that_gave_up_nothing(shop: Shop) -> None:
    """Listing what is not there is an empty list; replaying all of it is done at once."""
    assert shop.cli("list", "nobody") == (0, [])
    assert shop.cli("list", "mailer", "--group", "other") == (0, [])
    assert shop.cli("replay", "mailer", "--all") == (0, {"replayed": [], "problem": None})
