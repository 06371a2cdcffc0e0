"""A group of events that becomes ordered, or unordered again: nothing stays behind in the queue that it had before."""

from __future__ import annotations

import asyncio

import aiormq
import pytest

from fabric.transports.base import Delivery, QueueSpec
from fabric.transports.topology import Topology, former
from fabric.wire.message import Priority
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend


def group(topology: Topology, *, ordered: bool) -> QueueSpec:
    return topology.event_group("mailer", ("todo.*",), prefetch=10, max_attempts=3, retry_delays=(0.3,), ordered=ordered)


async def exists(url: str, queue: str) -> bool:
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        try:
            await channel.queue_declare(queue, passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        return True


async def gone(url: str, queue: str) -> None:
    async with asyncio.timeout(30):
        while await exists(url, queue):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("ordered", [True, False], ids=["becomes ordered", "becomes unordered"])
async def test_what_waited_moves_over(amqp: AmqpBackend, broker: BrokerNode, ordered: bool) -> None:
    """What the former queue held, also what was to be tried again, comes to the new one as it was published; the former one is
    deleted, and what is published from then on comes once."""
    before, after = group(amqp.topology, ordered=not ordered), group(amqp.topology, ordered=ordered)
    assert before.name is not None
    assert after.name == former(before.name)
    publisher, old = await amqp.transport(), await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await old.consume(before, inbox, timeout=5)
    for number in range(4):
        await publisher.send(
            amqp.topology.events,
            "todo.made",
            b"%d" % number,
            timeout=5,
            persistent=True,
            priority=Priority.HIGH,
            headers={"fabric-key": "anna"},
            message_id=f"order-{number}",
        )
    await (await inbox.next()).retry("not now")
    await old.aclose()
    await publisher.send(amqp.topology.events, "todo.made", b"4", timeout=5, persistent=True)

    new = await amqp.transport()
    inbox = Inbox()
    await new.consume(after, inbox, timeout=5)
    came: dict[bytes, Delivery] = {}
    while len(came) < 5:
        delivery = await inbox.next()
        delivery.ack()
        came[bytes(delivery.body)] = delivery
    assert sorted(came) == [b"0", b"1", b"2", b"3", b"4"]
    tried, waited = came[b"0"], came[b"3"]
    assert (tried.attempt, tried.message_id) == (2, "order-0")
    assert (waited.exchange, waited.key, waited.message_id) == (amqp.topology.events, "todo.made", "order-3")
    assert (waited.priority, waited.headers, waited.user_id) == (Priority.HIGH, {"fabric-key": "anna"}, "guest")
    await gone(broker.url, before.name)
    await publisher.send(amqp.topology.events, "todo.made", b"5", timeout=5, persistent=True)
    assert (await inbox.next()).body == b"5"
    assert len(inbox) == len(came) + 1


async def test_while_the_version_before_runs(amqp: AmqpBackend, broker: BrokerNode) -> None:
    """A former queue that is consumed is left alone, and taken over when its last consumer has gone."""
    before, after = group(amqp.topology, ordered=False), group(amqp.topology, ordered=True)
    assert before.name is not None
    publisher, old, new = await amqp.transport(), await amqp.transport(), await amqp.transport()
    inbox, successor = Inbox[Delivery](), Inbox[Delivery]()
    await old.consume(before, inbox, timeout=5)
    await new.consume(after, successor, timeout=5)
    await publisher.send(amqp.topology.events, "todo.made", b"both", timeout=5, persistent=True)
    for each in (inbox, successor):
        (delivery := await each.next()).ack()
        assert delivery.body == b"both"
    assert await exists(broker.url, before.name)
    await old.aclose()
    await gone(broker.url, before.name)
