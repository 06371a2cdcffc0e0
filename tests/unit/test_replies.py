"""Answers on their way back: which of them travel together, in what form, and that none grows beyond what may be sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fabric import Service, rpc, workers
from fabric.config import Settings
from fabric.hub import Hub
from fabric.transports.base import Delivery
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology
from fabric.wire import batch, rows
from fabric.wire.codec import JSON, MSGPACK, encode, encode_json
from fabric.wire.message import MessageType, ServiceMessage
from tests.puppet import LIMIT, Puppet, turns

MOST = 4096
ADDRESS = "reply.raw"


class Desk(Service):
    """Answers in the turn in which it is asked, or when its gate opens."""

    name = "desk"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.table: dict[str, list[int]] = {"numbers": []}

    @rpc()
    async def echo(self, value: Any) -> Any:
        return value

    @rpc()
    async def make(self, size: int) -> str:
        return "x" * size

    @rpc()
    async def fail(self) -> None:
        raise ValueError("odd")

    @rpc(concurrency=100)
    async def wait(self, n: int) -> int:
        await self.gate.wait()
        return n

    @rpc(concurrency=100)
    async def add(self, n: int) -> dict[str, list[int]]:
        await self.gate.wait()
        self.table["numbers"].append(n)
        return self.table


@dataclass
class Scene:
    """
    Attributes:
        bodies: that came to ``ADDRESS``, as they came.
    """

    hub: Hub
    desk: Desk
    puppet: Puppet
    network: MemoryNetwork
    bodies: asyncio.Queue[Delivery]

    def request(self, method: str, payload: Any = None, **fields: Any) -> ServiceMessage:
        return self.puppet.request(method, payload, **{"reply_to": ADDRESS, "source": "peer", **fields})

    async def ask(self, *requests: ServiceMessage) -> None:
        """Ask all of them in one body, so that their answers are ready together."""
        await self.puppet.send(self.hub.instance, *requests)

    async def next(self) -> tuple[Delivery, list[ServiceMessage]]:
        """The next body, and the answers in it."""
        async with asyncio.timeout(LIMIT):
            delivery = await self.bodies.get()
        found = batch.messages(delivery.body, delivery.content_type)
        assert all(isinstance(item, ServiceMessage) for item in found)
        return delivery, [item for item in found if isinstance(item, ServiceMessage)]

    async def away(self) -> None:
        """Take the link of the hub."""
        link = self.hub.transport
        assert isinstance(link, MemoryTransport)
        self.network.partition(link)
        await turns()


@pytest.fixture(autouse=True)
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked together is answered in one turn of the loop, however slow the machine is."""
    monkeypatch.setattr(workers, "TURN", 60.0)


@asynccontextmanager
async def scene(*, max_body: int = 8 * 1024 * 1024, **settings: Any) -> AsyncIterator[Scene]:
    async with MemoryNetwork() as network, Puppet(network, "peer", "peer-0") as puppet:
        bodies: asyncio.Queue[Delivery] = asyncio.Queue()
        await puppet.transport.consume(puppet.topology.replies(ADDRESS), bodies.put_nowait, timeout=LIMIT)
        chosen = Settings(**{"drain_timeout": 0.2, "max_message_bytes": MOST, **settings})
        link = MemoryTransport(network, Topology(), max_body=max_body)
        async with Hub.connect("desk", transport=link, settings=chosen) as hub:
            desk = Desk()
            served = await hub.serve(desk)
            await served.open_doors()
            yield Scene(hub, desk, puppet, network, bodies)
            desk.gate.set()


async def test_answers_that_are_ready_together_are_rows() -> None:
    """Answers to one caller that are ready in one turn are one body, values and errors, in order; a lone one is whole."""
    async with scene() as s:
        requests = [s.request("echo", {"value": [n]}) for n in range(5)] + [s.request("fail")]
        await s.ask(*requests)
        delivery, answers = await s.next()
        assert delivery.content_type == rows.ROWS
        assert [answer.correlation_id for answer in answers] == [request.id for request in requests]
        assert [answer.payload for answer in answers] == [[0], [1], [2], [3], [4], None]
        assert [answer.error and answer.error["kind"] for answer in answers] == [None] * 5 + ["failed"]
        assert {(a.type, a.source, a.instance, a.to) for a in answers} == {
            (MessageType.RESPONSE, "desk", s.hub.instance, "peer"),
        }
        await s.ask(s.request("echo", {"value": 7}))
        delivery, (lone,) = await s.next()
        assert (delivery.content_type, lone.payload, lone.method) == (MSGPACK, 7, "echo")
        assert s.bodies.empty()


async def test_answers_in_json_stay_alone_and_json() -> None:
    """Who asks in JSON reads no rows: each answer is a body of JSON of its own, also beside answers in msgpack to the same
    address."""
    async with scene() as s:
        for n in range(3):
            asked = s.request("wait", {"n": n})
            await s.puppet.send_raw(s.hub.instance, encode_json(asked), JSON)
            await s.ask(s.request("wait", {"n": 10 + n}))
        await turns()
        s.desk.gate.set()
        found = [await s.next()]
        while sum(len(answers) for _, answers in found) < 6:
            found.append(await s.next())
        single = [answers for delivery, answers in found if delivery.content_type == JSON]
        assert [len(answers) for answers in single] == [1, 1, 1]
        assert [answer.payload for (answer,) in single] == [0, 1, 2]
        others = [answers for delivery, answers in found if delivery.content_type == rows.ROWS]
        assert [[answer.payload for answer in answers] for answers in others] == [[10, 11, 12]]


async def test_two_services_behind_one_address() -> None:
    """Answers to one address that another service asked for, or that have another priority, are bodies of their own: their head
    says for whom they are."""
    async with scene() as s:
        requests = [s.request("wait", {"n": n}, source=("left", "right")[n % 2]) for n in range(6)]
        await s.ask(*requests)
        await turns()
        s.desk.gate.set()
        found = [await s.next(), await s.next()]
        assert [delivery.content_type for delivery, _ in found] == [rows.ROWS] * 2
        assert [[(answer.to, answer.payload) for answer in answers] for _, answers in found] == [
            [("left", 0), ("left", 2), ("left", 4)],
            [("right", 1), ("right", 3), ("right", 5)],
        ]


async def test_a_body_of_answers_has_a_limit() -> None:
    """Answers that are ready together fill as few bodies as their bytes and MOST_ROWS allow, in order; one larger than a body may
    be goes by itself."""
    async with scene(max_batch_bytes=2000) as s:
        sizes = [900, 900, 900, 3500, 10, 10]
        await s.ask(*(s.request("make", {"size": size}) for size in sizes))
        found = [await s.next() for _ in range(4)]
        assert [[len(answer.payload) for answer in answers] for _, answers in found] == [[900, 900], [900], [3500], [10, 10]]
        assert [len(delivery.body) <= 2000 for delivery, _ in found] == [True, True, False, True]


async def test_more_answers_than_a_body_may_have_rows() -> None:
    """However small they are, no body has more than MOST_ROWS, which a reader would refuse."""
    async with scene() as s:
        count = rows.MOST_ROWS + 100
        for begin in range(0, count, 500):
            await s.ask(*(s.request("echo", {"value": n}) for n in range(begin, min(begin + 500, count))))
        found = [await s.next()]
        while sum(len(answers) for _, answers in found) < count:
            found.append(await s.next())
        assert all(len(answers) <= rows.MOST_ROWS for _, answers in found)
        assert [answer.payload for _, answers in found for answer in answers] == list(range(count))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("source", ["peer", "é" * 40])
async def test_no_answer_is_larger_than_a_message_may_be(together: bool, source: str) -> None:
    """Up to the limit an answer arrives, alone as well as beside another, and as a whole message it is never over it; what would
    be is answered by an error, and what is beside it arrives all the same."""
    async with scene() as s:
        largest = 0
        for size in range(MOST - 200, MOST + 2):
            asked = s.request("make", {"size": size}, source=source)
            small = [s.request("echo", {"value": "small"}, source=source)] if together else []
            await s.ask(asked, *small)
            delivery, (answer, *others) = await s.next()
            assert delivery.content_type == (rows.ROWS if together else MSGPACK)
            assert [other.payload for other in others] == ["small"] * len(small)
            assert len(encode(answer._replace(id=s.puppet.ids.next(), method="make"))) <= MOST
            assert together or len(delivery.body) <= MOST
            if answer.error is None:
                assert answer.payload == "x" * size
                largest = size
            else:
                assert answer.error["type"] == "PayloadTooLarge"
                assert size > largest
        assert MOST - 200 <= largest < MOST


@pytest.mark.parametrize("count", [1, 40])
async def test_what_was_held_is_sent_after(count: int) -> None:
    """M22 (rabbot#47): answers that are ready while the link is down are sent once, in order, over the next one, also those that
    nothing has come before; nothing overtakes them."""
    async with scene() as s:
        await s.ask(*(s.request("wait", {"n": n}) for n in range(count)))
        await turns()
        await s.away()
        s.desk.gate.set()
        await turns()
        s.network.heal()
        found = [await s.next()]
        while sum(len(answers) for _, answers in found) < count:
            found.append(await s.next())
        assert [answer.payload for _, answers in found for answer in answers] == list(range(count))
        assert {delivery.content_type for delivery, _ in found} == {rows.ROWS if count > 1 else MSGPACK}
        await s.ask(s.request("echo", {"value": "after"}))
        assert [answer.payload for answer in (await s.next())[1]] == ["after"]
        assert s.bodies.empty()


async def test_what_was_asked_is_not_held() -> None:
    """M22 (rabbot#47): a small answer that waits for the link does not keep the large request that it answers in memory."""
    async with scene() as s:
        await s.ask(s.request("wait", {"n": 1}, headers={"trace": "x" * 100}))
        await turns()
        await s.away()
        s.desk.gate.set()
        await turns()
        assert s.hub._served is not None
        ((_, (_, _, asked, _, _)),) = s.hub._served._dispatcher._replies._held
        assert (asked.payload, asked.headers) == (None, None)
        s.network.heal()
        assert [answer.payload for answer in (await s.next())[1]] == [1]


@pytest.mark.parametrize("sources", [["peer"], ["left", "right", "middle"]])
async def test_an_answer_says_what_was_returned(sources: list[str]) -> None:
    """M22 (rabbot#47): what a handler does later to a value that it has returned changes no answer, however long that is held,
    whether it travels in a row or whole."""
    async with scene() as s:
        for n in range(3):
            await s.ask(s.request("add", {"n": n}, source=sources[n % len(sources)]))
        await turns()
        await s.away()
        s.desk.gate.set()
        await turns()
        s.network.heal()
        found = [await s.next() for _ in sources]
        assert {delivery.content_type for delivery, _ in found} == {rows.ROWS if len(sources) == 1 else MSGPACK}
        assert [answer.payload for _, answers in found for answer in answers] == [
            {"numbers": numbers} for numbers in ([0], [0, 1], [0, 1, 2])
        ]


async def test_the_limit_is_what_was_set() -> None:
    """Where more than the default is allowed, larger answers arrive, alone and together."""
    size = 9 * 1024 * 1024
    async with scene(max_message_bytes=16 * 1024 * 1024, max_body=32 * 1024 * 1024) as s:
        await s.ask(s.request("make", {"size": size}))
        await s.ask(s.request("make", {"size": size}), s.request("echo", {"value": 1}))
        async with asyncio.timeout(LIMIT):
            deliveries = [await s.bodies.get() for _ in range(3)]
        assert sorted(len(delivery.body) // size for delivery in deliveries) == [0, 1, 1]
