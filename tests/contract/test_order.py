"""What leaves a queue when, on every kind of broker."""

from __future__ import annotations

import asyncio

import pytest

from fabric.transports.base import QueueSpec, Transport
from fabric.wire.message import Priority
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Inbox, events

TIMEOUT = 10.0


async def test_order(backend: Backend) -> None:
    """What one task sends to one place with one priority arrives in that order, confirmed or not."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox = Inbox()
    await other.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    for number in range(500):
        await link.send(topology.rpc, "one", b"%d" % number, timeout=TIMEOUT)
    assert await inbox.bodies(500) == [b"%d" % number for number in range(500)]
    for number in range(500):
        assert link.post(topology.rpc, "one", b"%d" % number)
    assert await inbox.bodies(500) == [b"%d" % number for number in range(500)]


async def test_many_sends_at_once(backend: Backend) -> None:
    """A thousand sends under way on one link are all confirmed, and each arrives once."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await asyncio.gather(*(link.send(topology.rpc, "one", b"%d" % number, timeout=TIMEOUT) for number in range(1000)))
    assert sorted(await inbox.bodies(1000)) == sorted(b"%d" % number for number in range(1000))


async def in_hand(link: Transport, queue: QueueSpec, inbox: Inbox) -> str:
    """Consume with room for one, and fill it, so that what follows waits on the broker. Returns the key to reach it."""
    consumer = await link.consume(queue, inbox, timeout=TIMEOUT)
    await link.send("", consumer.address, b"in hand", timeout=TIMEOUT)
    return consumer.address


async def drain(inbox: Inbox, count: int) -> list[bytes]:
    """The next ``count`` bodies, each acknowledged so that the next comes; the first is dropped."""
    bodies = []
    for _ in range(count + 1):
        delivery = await inbox.next()
        delivery.ack()
        bodies.append(delivery.body)
    return bodies[1:]


async def priorities(link: Transport, queue: QueueSpec) -> list[bytes]:
    inbox = Inbox()
    address = await in_hand(link, queue, inbox)
    for number in range(2):
        for priority in Priority:
            body = f"{priority.name} {number}".encode()
            await link.send("", address, body, timeout=TIMEOUT, priority=priority, persistent=queue.durable)
    return await drain(inbox, 8)


IN_ORDER = [f"{priority.name} {number}".encode() for priority in reversed(Priority) for number in range(2)]


async def test_priority(backend: Backend) -> None:
    """Of what waits in a queue the higher priority goes first, and within one the earlier."""
    assert await priorities(await backend.transport(), QueueSpec(name=None, ack=True, prefetch=1)) == IN_ORDER


@pytest.mark.needs(Ability.DURABLE_PRIORITY)
async def test_priority_of_events(backend: Backend) -> None:
    """The same holds in a durable queue."""
    assert await priorities(await backend.transport(), events(backend.topology, "todo.*", prefetch=1)) == IN_ORDER


@pytest.mark.parametrize("durable", [False, True])
async def test_expiry(backend: Backend, durable: bool) -> None:
    """A message whose time passed while it waited is not delivered; the others are."""
    link = await backend.transport()
    queue = events(backend.topology, "todo.*", prefetch=1) if durable else QueueSpec(name=None, ack=True, prefetch=1)
    inbox = Inbox()
    address = await in_hand(link, queue, inbox)
    await link.send("", address, b"short", timeout=TIMEOUT, expires=0.05)
    await link.send("", address, b"long", timeout=TIMEOUT, expires=60)
    await link.send("", address, b"ever", timeout=TIMEOUT)
    await asyncio.sleep(0.2)  # its time must pass, on the broker's clock
    assert await drain(inbox, 2) == [b"long", b"ever"]


async def test_expiry_of_delivered(backend: Backend) -> None:
    """What is consumed at once is not touched by its expiry."""
    link = await backend.transport()
    inbox = Inbox()
    consumer = await link.consume(QueueSpec(name=None), inbox, timeout=TIMEOUT)
    await link.send("", consumer.address, b"fresh", timeout=TIMEOUT, expires=30)
    assert await inbox.bodies(1) == [b"fresh"]


async def test_prefetch(backend: Backend) -> None:
    """A consumer gets no more than its prefetch until it acknowledges; the others of the queue get the rest."""
    topology, one, two = backend.topology, await backend.transport(), await backend.transport()
    slow, fast = Inbox(), Inbox(ack=True)
    queue = events(topology, "todo.*", prefetch=3)
    await one.consume(queue, slow, timeout=TIMEOUT)
    for number in range(3):
        await one.send(topology.events, "todo.created", b"%d" % number, timeout=TIMEOUT, persistent=True)
    held = [await slow.next() for _ in range(3)]
    await two.consume(queue, fast, timeout=TIMEOUT)
    for number in range(3, 10):
        await one.send(topology.events, "todo.created", b"%d" % number, timeout=TIMEOUT, persistent=True)
    assert await fast.bodies(7) == [b"%d" % number for number in range(3, 10)]
    assert not slow.waiting
    for delivery in held:
        delivery.ack()


async def test_shared_queue(backend: Backend) -> None:
    """Each message of a durable queue goes to one of its consumers, and each of them gets some."""
    topology = backend.topology
    inboxes = [Inbox(ack=True), Inbox(ack=True)]
    for inbox in inboxes:
        await (await backend.transport()).consume(events(topology, "todo.*", prefetch=1), inbox, timeout=TIMEOUT)
    sender = await backend.transport()
    for number in range(100):
        await sender.send(topology.events, "todo.created", b"%d" % number, timeout=TIMEOUT, persistent=True)

    bodies: list[bytes] = []
    async with asyncio.timeout(TIMEOUT):
        while len(bodies) < 100:
            for inbox in inboxes:
                if inbox.waiting:
                    bodies += await inbox.bodies(1)
            await asyncio.sleep(0)
    assert sorted(bodies) == sorted(b"%d" % number for number in range(100))


async def test_single_consumer(backend: Backend) -> None:
    """Of two consumers of a single queue one gets everything; when its link is gone the other gets what was not settled, in order
    and before all else, and then the rest."""
    topology, publisher = backend.topology, await backend.transport()
    queue = events(topology, "todo.*", prefetch=3, ordered=True)
    one, two = await backend.transport(), await backend.transport()
    first, second = Inbox(), Inbox(ack=True)
    await one.consume(queue, first, timeout=TIMEOUT)
    await two.consume(queue, second, timeout=TIMEOUT)
    for number in range(6):
        await publisher.send(topology.events, "todo.created", b"%d" % number, timeout=TIMEOUT, persistent=True)
    got = [await first.next() for _ in range(3)]
    assert [delivery.body for delivery in got] == [b"0", b"1", b"2"]
    got[0].ack()
    fourth = await first.next()
    assert (fourth.body, second.waiting) == (b"3", 0)
    await one.aclose()
    assert await second.bodies(5) == [b"1", b"2", b"3", b"4", b"5"]


async def test_single_consumer_closes(backend: Backend) -> None:
    """A consumer of a single queue that is closed while its link lives gives back what it has, in order and before all else."""
    topology, publisher = backend.topology, await backend.transport()
    queue = events(topology, "todo.*", prefetch=3, ordered=True)
    one, two = await backend.transport(), await backend.transport()
    first, second = Inbox(), Inbox(ack=True)
    consumer = await one.consume(queue, first, timeout=TIMEOUT)
    await two.consume(queue, second, timeout=TIMEOUT)
    for number in range(6):
        await publisher.send(topology.events, "todo.created", b"%d" % number, timeout=TIMEOUT, persistent=True)
    got = [await first.next() for _ in range(3)]
    got[0].ack()
    await consumer.aclose()
    got[1].ack()
    assert await second.bodies(5) == [b"1", b"2", b"3", b"4", b"5"]
