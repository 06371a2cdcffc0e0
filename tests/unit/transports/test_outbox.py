"""Messages that are ready together travel together, and what was given up before it left never leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fabric.errors import ConnectionLost, FabricError, NoRoute, NotSent, TransportClosed
from fabric.transports.base import Delivery, LinkState
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.outbox import Outbox, Parcel
from fabric.transports.topology import Topology
from fabric.wire import batch
from fabric.wire.message import Priority
from tests.puppet import LIMIT, eventually, turns
from tests.unit.parcels import Wish

RPC = Topology().rpc


@dataclass(eq=False)
class Packet(Wish):
    deadline: float = 0.0


@dataclass
class Post:
    network: MemoryNetwork
    link: MemoryTransport
    outbox: Outbox
    bodies: list[list[bytes]]
    sent: list[Parcel] = field(default_factory=list)
    failed: list[tuple[Parcel, FabricError]] = field(default_factory=list)

    def put(self, data: bytes, priority: Priority = Priority.NORMAL, *, to: str = "inbox") -> Packet:
        packet = Packet(asyncio.get_running_loop().time() + LIMIT)
        self.outbox.put(RPC, to, priority, data, packet)
        return packet


@asynccontextmanager
async def post(*, max_batch_bytes: int = 1000, max_waiting_bytes: int = 10_000) -> AsyncIterator[Post]:
    async with MemoryNetwork() as network:
        reader, link = MemoryTransport(network, Topology()), MemoryTransport(network, Topology())
        await reader.connect(timeout=LIMIT)
        await link.connect(timeout=LIMIT)
        bodies: list[list[bytes]] = []

        def read(delivery: Delivery) -> None:
            bodies.append(list(batch.split(delivery.body, delivery.content_type)))

        await reader.consume(Topology().requests("inbox"), read, timeout=LIMIT)
        made: Post

        def sent(parcels: Sequence[Parcel]) -> None:
            made.sent.extend(parcels)

        def failed(parcels: Sequence[Parcel], error: FabricError) -> None:
            made.failed.extend((parcel, error) for parcel in parcels)

        outbox = Outbox(link, sent=sent, failed=failed, max_batch_bytes=max_batch_bytes, max_waiting_bytes=max_waiting_bytes)
        made = Post(network, link, outbox, bodies)
        yield made
        await outbox.aclose()
        await link.aclose()
        await reader.aclose()


async def test_a_lone_message_travels_alone_and_at_once() -> None:
    """One message is not wrapped, and is confirmed to its sender."""
    async with post() as p:
        packet = p.put(b"one")
        assert not packet.left
        await eventually(lambda: p.sent == [packet])
        assert packet.left
        assert p.bodies == [[b"one"]]


async def test_what_is_ready_together_travels_together_in_order() -> None:
    """Messages put in one turn are one body; a second destination or priority has its own."""
    async with post() as p:
        for n in range(5):
            p.put(b"%d" % n)
        p.put(b"high", Priority.HIGH)
        await eventually(lambda: len(p.sent) == 6)
        assert sorted(p.bodies) == [[b"0", b"1", b"2", b"3", b"4"], [b"high"]]


async def test_a_body_has_a_limit_and_a_larger_message_travels_alone() -> None:
    """No body passes the limit but one that a single message fills; nothing is lost or reordered."""
    async with post(max_batch_bytes=1000) as p:
        sizes = [300, 300, 300, 300, 5000, 10, 10]
        for n, size in enumerate(sizes):
            p.put(bytes([n]) * size)
        await eventually(lambda: len(p.sent) == len(sizes))
        assert [[len(part) for part in body] for body in p.bodies] == [[300, 300, 300], [300], [5000], [10, 10]]
        assert [part[0] for body in p.bodies for part in body] == list(range(7))


async def test_what_nobody_wants_any_more_is_not_sent() -> None:
    """Given up before its turn, a message is dropped, and never marked as having left."""
    async with post() as p:
        kept, dropped = p.put(b"kept"), p.put(b"dropped")
        dropped.wanted = False
        await eventually(lambda: p.sent == [kept])
        assert p.bodies == [[b"kept"]]
        assert not dropped.left


async def test_a_destination_that_is_gone_is_told_to_each_sender() -> None:
    """All that travelled in one body share its fate."""
    async with post() as p:
        packets = [p.put(b"x", to="nowhere") for _ in range(3)]
        await eventually(lambda: len(p.failed) == 3)
        assert [packet for packet, _ in p.failed] == packets
        assert all(isinstance(error, NoRoute) for _, error in p.failed)


async def test_while_the_link_is_down_everything_waits_here() -> None:
    """Nothing is handed to a transport without a link; when it is back, what is still wanted goes, in order."""
    async with post() as p:
        p.network.go_down()
        assert p.link.state is LinkState.RECONNECTING
        packets = [p.put(b"%d" % n) for n in range(4)]
        await turns()
        assert not any(packet.left for packet in packets)
        packets[1].wanted = False
        p.network.come_up()
        await eventually(lambda: len(p.sent) + len(p.failed) == 3)
        assert [packet.left for packet in packets] == [True, False, True, True]


async def test_what_is_lost_on_the_way_is_told() -> None:
    """A link that breaks before the confirm leaves its senders with ConnectionLost, and the next message goes over the next."""
    async with post() as p:
        p.network.pause(p.link)
        packet = p.put(b"one")
        await turns()
        assert packet.left
        p.network.cut(p.link)
        await eventually(lambda: bool(p.failed))
        assert isinstance(p.failed[0][1], ConnectionLost)
        p.put(b"two")
        await eventually(lambda: len(p.sent) == 1)


async def test_a_full_lane_refuses_and_forgets_what_nobody_wants() -> None:
    """The bytes that wait are bounded; what was given up does not count."""
    async with post(max_waiting_bytes=1000) as p:
        p.network.go_down()
        packets = [p.put(b"x" * 100) for _ in range(10)]
        with pytest.raises(NotSent, match="wait for 'inbox'"):
            p.put(b"x")
        for packet in packets[:5]:
            packet.wanted = False
        for _ in range(5):
            p.put(b"x" * 100)
        with pytest.raises(NotSent):
            p.put(b"x")


async def test_a_long_outage_does_not_fill_the_memory() -> None:
    """A hundred thousand calls given up during an outage leave next to nothing behind."""
    async with post(max_waiting_bytes=10**9) as p:
        p.network.go_down()
        for _ in range(100_000):
            p.put(b"x" * 10).wanted = False
        (lane,) = p.outbox._lanes.values()
        assert len(lane.rows) < 1000


async def test_while_the_broker_is_blocked_low_is_refused_and_the_rest_waits() -> None:
    """M11 (RabbitMQ alarms): low is shed here, at once."""
    async with post() as p:
        p.network.block()
        await turns()
        with pytest.raises(NotSent, match="low priority"):
            p.put(b"low", Priority.LOW)
        p.put(b"normal")
        await turns()
        assert p.sent == []
        p.network.unblock()
        await eventually(lambda: len(p.sent) == 1)


async def test_on_a_closed_transport_senders_are_told_at_once() -> None:
    """What is put after the end fails as TransportClosed."""
    async with post() as p:
        await p.link.aclose()
        packet = p.put(b"x")
        await eventually(lambda: [(packet, TransportClosed)] == [(parcel, type(error)) for parcel, error in p.failed])
