"""Consumers on RabbitMQ that the broker ends, and topology that it refuses."""

from __future__ import annotations

import asyncio
import time

import pytest

from fabric.errors import TopologyConflict
from fabric.transports.amqp import AmqpTransport
from fabric.transports.amqp_stream import AmqpStream
from fabric.transports.base import Delivery, ExchangeKind, ExchangeSpec, LinkEvent, LinkState, QueueSpec
from fabric.transports.topology import Topology
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend


def group(topology: Topology, *, max_attempts: int = 3, retry_delays: tuple[float, ...] = (0.05,)) -> QueueSpec:
    return topology.event_group("mailer", ("todo.*",), prefetch=10, max_attempts=max_attempts, retry_delays=retry_delays)


def open_channels(node: BrokerNode) -> int:
    return len(node.ctl("list_channels", "pid").split())


async def test_a_consumed_queue_is_deleted(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M4 (aiormq#116, aio-pika#334): whose queue is deleted consumes again within 5 s, with an event, a count, and no leak."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    events: Inbox[LinkEvent] = Inbox()
    requests = await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    durable = await transport.consume(group(amqp.topology), inbox, timeout=5)
    await requests.bind("alias")
    channels = await asyncio.to_thread(open_channels, private_broker)
    transport.watch(events)
    for consumer in (requests, durable):
        began = time.monotonic()
        await amqp.delete_queue(consumer.address)
        restored = await events.next(lambda event: bool(event.consumer))
        assert time.monotonic() - began < 7, "5 s, and what the deletion itself takes"
        assert restored.consumer == consumer.address
        assert restored.state is LinkState.READY
    assert transport.counts["consumer-restored"] == 2
    assert await asyncio.to_thread(open_channels, private_broker) == channels
    for exchange, key in ((amqp.topology.rpc, "callee"), (amqp.topology.rpc, "alias"), (amqp.topology.events, "todo.made")):
        await transport.send(exchange, key, key.encode(), timeout=5, mandatory=True)
        assert (await inbox.next()).body == key.encode()


async def test_a_closed_channel_is_opened_again(amqp: AmqpBackend) -> None:
    """A consumer whose channel the broker closes consumes again; the message it held comes again."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    events: Inbox[LinkEvent] = Inbox()
    await transport.consume(group(amqp.topology), inbox, timeout=5)
    transport.watch(events)
    await transport.send(amqp.topology.events, "todo.made", b"event", timeout=5, mandatory=True, persistent=True)
    delivery = await inbox.next()
    delivery.tag += 1000  # type: ignore[attr-defined]  # an unknown tag is a 406, which closes the channel
    delivery.ack()
    assert "406" in (await events.next(lambda event: bool(event.consumer))).reason
    again = await inbox.next()
    assert (again.body, again.attempt, again.redelivered) == (b"event", 2, True)
    again.ack()


async def test_everything_is_declared_without_a_refusal(amqp: AmqpBackend) -> None:
    """M24 (celery#10287): no declaration of ours is refused by the broker's defaults, 4.3's included."""
    topology = amqp.topology
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    for spec in (
        topology.requests("callee"),
        topology.replies("caller"),
        topology.broadcasts(),
        topology.control_lane("command.x", "vote.#"),
        topology.discoveries("up.service.#"),
        QueueSpec(name=None, ack=True, prefetch=1),
        group(topology),
        topology.event_group("clerk", ("order.*",), prefetch=1, max_attempts=3, retry_delays=(0.05,), ordered=True),
    ):
        await transport.consume(spec, inbox, timeout=5)
    await transport.send(topology.events, "todo.made", b"event", timeout=5, mandatory=True, persistent=True)
    await (await inbox.next()).retry("declares the delay queue")
    await (await inbox.next()).reject("uses the dead-letter queue")
    assert len(await transport.dead_letters(group(topology).name or "", limit=10, timeout=5)) == 1
    await transport.send(topology.events, "todo.made", b"later", timeout=5, delay=0.1)
    await inbox.next(lambda delivery: delivery.body == b"later")
    journal = AmqpStream[None](transport.settings, topology.journal, lambda offset, body: None)
    await journal.open()
    await journal.append(b"record", timeout=5)
    await journal.aclose()
    await amqp.delete_queue(topology.journal)
    assert transport.epoch == 1
    assert not transport.counts["consumer-refused"]


async def test_other_arguments_are_a_clear_error(amqp: AmqpBackend) -> None:
    """M23 (aio-pika#565): a redeploy with another max_attempts is told at once, with what differs and what to do."""
    old, new = await amqp.transport(), await amqp.transport()
    await old.consume(group(amqp.topology, max_attempts=3), lambda delivery: None, timeout=5)
    with pytest.raises(TopologyConflict, match="x-delivery-limit") as caught:
        await new.consume(group(amqp.topology, max_attempts=4), lambda delivery: None, timeout=5)
    assert TopologyConflict.advice in str(caught.value)
    assert new.state is LinkState.READY
    assert new.epoch == 1


async def test_a_conflict_after_a_reconnect_does_not_spin(amqp: AmqpBackend) -> None:
    """M23 (aio-pika#565, celery#2635): a queue that came back with other arguments is told, tried rarely, and costs no CPU; all
    other consumers go on."""
    old, new = await amqp.transport(), await amqp.transport()
    spec, other = group(amqp.topology, max_attempts=3), group(amqp.topology, max_attempts=4)
    inbox: Inbox[Delivery] = Inbox()
    await old.consume(spec, lambda delivery: None, timeout=5)
    await old.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    events: Inbox[LinkEvent] = Inbox()
    old.watch(events)
    amqp.proxy(old).cut()
    await amqp.proxy(old).refuse()
    await amqp.delete_queue(spec.name or "")
    await new.consume(other, lambda delivery: None, timeout=5)
    await amqp.proxy(old).allow()
    refused = await events.next(lambda event: event.consumer == spec.name)
    assert "x-delivery-limit" in refused.reason
    assert old.state is LinkState.READY
    await old.send(amqp.topology.rpc, "callee", b"call", timeout=5, mandatory=True)
    assert (await inbox.next()).body == b"call"
    spent = time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - spent < 0.5
    assert old.counts["consumer-refused"] <= 6


async def test_an_exchange_of_another_kind(amqp: AmqpBackend) -> None:
    """M23: an exchange that exists with another kind is refused at connect, by its name."""

    class Other(Topology):
        @property
        def exchanges(self) -> tuple[ExchangeSpec, ...]:
            return (ExchangeSpec(name=self.rpc, kind=ExchangeKind.FANOUT),)

    await amqp.transport()
    late = await amqp.make(connect=False)
    transport = AmqpTransport(late.settings, Other(amqp.topology.namespace))
    with pytest.raises(TopologyConflict, match=r"\.rpc"):
        await transport.connect(timeout=10)
    await transport.aclose()


async def test_a_consumer_that_is_closed_settles_what_it_has(amqp: AmqpBackend) -> None:
    """After ``aclose`` nothing more is received, and what was received is still acknowledged: nothing comes twice."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    rest: Inbox[Delivery] = Inbox()
    consumer = await transport.consume(group(amqp.topology), inbox, timeout=5)
    for number in range(5):
        await transport.send(amqp.topology.events, "todo.made", b"%d" % number, timeout=5, persistent=True)
    await inbox.reaches(5)
    await consumer.aclose()
    for delivery in inbox.all:
        delivery.ack()
    await transport.send(amqp.topology.events, "todo.made", b"later", timeout=5, persistent=True)
    again = await transport.consume(group(amqp.topology), rest, timeout=5)
    assert (await rest.next()).body == b"later"
    assert len(rest) == 1
    await again.aclose()


async def test_a_receiver_that_raises_harms_nobody(amqp: AmqpBackend) -> None:
    """A receiver that breaks its promise not to raise does not break the link."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()

    def broken(delivery: Delivery) -> None:
        inbox(delivery)
        raise ZeroDivisionError

    await transport.consume(amqp.topology.requests("callee"), broken, timeout=5)
    for _ in range(2):
        await transport.send(amqp.topology.rpc, "callee", b"", timeout=5, mandatory=True)
        await inbox.next()
    assert transport.epoch == 1
