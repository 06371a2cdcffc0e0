"""What a broker does to its clients while their links stand."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import NotSent
from fabric.transports.base import LinkState, QueueSpec
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Events, Inbox, events, outcome

TIMEOUT = 10.0


@pytest.mark.needs(Ability.DELETE_QUEUE)
async def test_deleted_queue(backend: Backend) -> None:
    """M4 (aiormq#116, aio-pika#334): when its queue is deleted a consumer consumes again by itself, at a new address and with
    the keys of now, and the link tells."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, bystander, seen = Inbox(), Inbox(), Events(link)
    consumer = await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await link.consume(topology.requests("two"), bystander, timeout=TIMEOUT)
    await consumer.bind("added")
    old = consumer.address
    await backend.delete_queue(old)
    event = await seen.until(lambda event: bool(event.consumer) and event.consumer != old)
    assert (event.state, event.epoch, event.consumer) == (LinkState.READY, 1, consumer.address)
    assert event.reason
    for key in ("one", "added", "two"):
        await other.send(topology.rpc, key, key.encode(), timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(2) == [b"one", b"added"]
    assert await bystander.bodies(1) == [b"two"]


@pytest.mark.needs(Ability.DELETE_QUEUE)
async def test_deleted_durable_queue(backend: Backend) -> None:
    """M4: the same for a durable queue and each of its consumers; what they had from the old one can't be settled any more."""
    topology = backend.topology
    links = [await backend.transport(), await backend.transport()]
    inboxes, seen = [Inbox(), Inbox()], [Events(link) for link in links]
    queue = events(topology, "todo.*", prefetch=1)
    assert queue.name is not None
    for link, inbox in zip(links, inboxes, strict=True):
        await link.consume(queue, inbox, timeout=TIMEOUT)
    for body in (b"1", b"2"):
        await links[0].send(topology.events, "todo.created", body, timeout=TIMEOUT, persistent=True)
    old = [await inbox.next() for inbox in inboxes]
    await backend.delete_queue(queue.name)
    for watched in seen:
        await watched.until(lambda event: event.consumer == queue.name)
    for delivery in old:
        delivery.ack()
    for body in (b"3", b"4"):
        await links[0].send(topology.events, "todo.created", body, timeout=TIMEOUT, persistent=True, mandatory=True)
    assert sorted([(await inbox.next()).body for inbox in inboxes]) == [b"3", b"4"]
    assert [link.epoch for link in links] == [1, 1]


@pytest.mark.needs(Ability.BLOCK)
async def test_blocked(backend: Backend) -> None:
    """M11: while the broker takes no publishes that is a state of the link; sends wait in their time, consuming goes on, and it
    ends by itself."""
    topology, link, consuming = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), Events(link)
    consumer = await consuming.consume(QueueSpec(name=None, ack=True, prefetch=1), inbox, timeout=TIMEOUT)
    for body in (b"1", b"2"):
        await link.send("", consumer.address, body, timeout=TIMEOUT)
    first = await inbox.next()
    await backend.block()
    # A broker tells only those who publish.
    link.post(topology.rpc, "nobody", b"nudge")
    await seen.until_state(LinkState.BLOCKED)
    assert (link.state, link.epoch) == (LinkState.BLOCKED, 1)
    assert isinstance(await outcome(link.send("", consumer.address, b"late", timeout=0.2)), NotSent)
    assert not link.post("", consumer.address, b"late")
    first.ack()
    second = await inbox.next()
    assert second.body == b"2"
    async with asyncio.TaskGroup() as group:
        group.create_task(link.send("", consumer.address, b"3", timeout=TIMEOUT))
        await asyncio.sleep(0)
        await backend.unblock()
    second.ack()
    assert await inbox.bodies(1) == [b"3"]
    assert [event.state for event in seen.seen] == [LinkState.BLOCKED, LinkState.READY]
