"""The prefetch that is in force on RabbitMQ."""

from __future__ import annotations

import asyncio

from fabric.transports.base import Delivery, LinkEvent, LinkState, QueueSpec
from fabric.transports.topology import Topology
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend


def group(topology: Topology, prefetch: int) -> QueueSpec:
    return topology.event_group("mailer", ("todo.*",), prefetch=prefetch, max_attempts=3, retry_delays=(0.05,))


def in_force(node: BrokerNode, queue: str) -> list[int]:
    rows = node.ctl("list_consumers", "queue_name", "prefetch_count", "--quiet", "--no-table-headers").splitlines()
    return [int(row.split()[1]) for row in rows if row.split()[0] == queue]


async def test_the_configured_prefetch_is_in_force(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M32 (celery#9512): at first, after a reconnect, and when the concurrency was changed while others went on consuming."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    events: Inbox[LinkEvent] = Inbox()
    consumer = await transport.consume(group(amqp.topology, 7), inbox, timeout=5)
    queue = consumer.address
    assert await asyncio.to_thread(in_force, private_broker, queue) == [7]

    transport.watch(events)
    epoch = transport.epoch
    await amqp.cut(transport)
    await events.next(lambda event: event.state is LinkState.READY and event.epoch > epoch)
    await transport.send(amqp.topology.events, "todo.made", b"again", timeout=5, mandatory=True, persistent=True)
    (await inbox.next()).ack()
    async with asyncio.timeout(15):
        while await asyncio.to_thread(in_force, private_broker, queue) != [7]:  # the broker may still hold the old link
            await asyncio.sleep(0.1)

    changed = await transport.consume(group(amqp.topology, 3), inbox, timeout=5)
    assert sorted(await asyncio.to_thread(in_force, private_broker, queue)) == [3, 7]
    await consumer.aclose()
    assert await asyncio.to_thread(in_force, private_broker, queue) == [3]
    await changed.aclose()


async def test_no_more_than_the_prefetch_is_delivered(amqp: AmqpBackend) -> None:
    """M32: the broker holds back what goes beyond it, and sends one more for each that is acknowledged."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(group(amqp.topology, 4), inbox, timeout=5)
    for number in range(10):
        await transport.send(amqp.topology.events, "todo.made", b"%d" % number, timeout=5, mandatory=True, persistent=True)
    await inbox.reaches(4)
    await transport.ping(timeout=5)
    assert len(inbox) == 4
    inbox.all[0].ack()
    await inbox.reaches(5)
    await transport.ping(timeout=5)
    assert len(inbox) == 5
