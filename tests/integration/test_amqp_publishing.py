"""Publishing to RabbitMQ: confirms, returns, refusals, alarms."""

from __future__ import annotations

import asyncio

import aiormq
import pytest

from fabric.errors import ConnectionLost, NoRoute, NotSent, PayloadTooLarge
from fabric.transports.base import Delivery, LinkEvent, LinkState
from fabric.wire.message import Priority
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend


async def test_one_business_id_ten_thousand_times(amqp: AmqpBackend) -> None:
    """M27 (aio-pika#689): 10,000 sends with the same message id, half of them returned, all end, each as it should."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("there"), inbox, timeout=5)

    async def one(number: int) -> bool:
        key = "there" if number % 2 else "gone"
        try:
            await transport.send(amqp.topology.rpc, key, b"%d" % number, timeout=30, mandatory=True, message_id="order-1")
        except NoRoute:
            return False
        return True

    arrived = await asyncio.gather(*(one(number) for number in range(10_000)))
    assert arrived == [bool(number % 2) for number in range(10_000)]
    deliveries = await inbox.reaches(5_000)
    assert {delivery.message_id for delivery in deliveries} == {"order-1"}
    assert [int(delivery.body) for delivery in deliveries] == list(range(1, 10_000, 2))


async def test_a_missing_queue_spoils_nothing(amqp: AmqpBackend) -> None:
    """M10 (FastStream's reply lock): after a call to a missing queue a hundred good ones succeed, on the same link."""
    transport = await amqp.transport()
    await transport.consume(amqp.topology.requests("callee"), lambda delivery: None, timeout=5)
    with pytest.raises(NoRoute, match="missing"):
        await transport.send("", "missing", b"", timeout=5, mandatory=True)
    await asyncio.gather(*(transport.send(amqp.topology.rpc, "callee", b"", timeout=5, mandatory=True) for _ in range(100)))
    assert transport.epoch == 1


async def test_a_missing_exchange_costs_one_channel(amqp: AmqpBackend) -> None:
    """M10: publishing to an exchange that does not exist makes the broker close the channel; that send fails as NoRoute, what
    was under way with it ends typed, and the next ones go on a new channel of the same link."""
    transport = await amqp.transport()
    await transport.consume(amqp.topology.requests("callee"), lambda delivery: None, timeout=5)
    with pytest.raises(NoRoute):
        await transport.send("no-such-exchange", "x", b"", timeout=5)
    assert transport.post("no-such-exchange", "x", b"")
    for _ in range(20):
        await transport.send(amqp.topology.rpc, "callee", b"", timeout=5, mandatory=True)
    mixed = [
        transport.send("no-such-exchange" if number == 50 else amqp.topology.rpc, "callee", b"", timeout=5, mandatory=True)
        for number in range(100)
    ]
    outcomes = await asyncio.gather(*mixed, return_exceptions=True)
    assert isinstance(outcomes[50], NoRoute)
    assert all(outcome is None or isinstance(outcome, ConnectionLost) for number, outcome in enumerate(outcomes) if number != 50)
    assert transport.epoch == 1


async def test_posts_go_on_after_one_that_closed_their_channel(amqp: AmqpBackend) -> None:
    """A post to a missing exchange costs the channel of the posts, which is opened again."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    assert transport.post("no-such-exchange", "x", b"")
    async with asyncio.timeout(10):
        while not inbox.all:
            transport.post(amqp.topology.rpc, "callee", b"x")
            await transport.ping(timeout=5)
    assert transport.epoch == 1


async def test_a_full_queue_refuses(amqp: AmqpBackend, broker: BrokerNode) -> None:
    """A publish that the broker refuses, because a queue is full, is NotSent: it may be sent again."""
    transport = await amqp.transport()
    name = f"{amqp.topology.namespace}.full"
    async with aiormq.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.queue_declare(name, exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        sends = (transport.send("", name, b"x", timeout=5, mandatory=True) for _ in range(10))
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert len(refused) >= 8
    assert all(isinstance(outcome, NotSent) and "refused" in str(outcome) for outcome in refused)


async def test_confirms_are_pipelined(amqp: AmqpBackend) -> None:
    """A thousand sends are under way at once: while nothing passes none is confirmed, and then all are."""
    transport = await amqp.make(ping_interval=60.0)
    proxy = amqp.proxy(transport)
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    proxy.pause()
    sends = [
        asyncio.create_task(transport.send(amqp.topology.rpc, "callee", b"%d" % number, timeout=30)) for number in range(1000)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not any(send.done() for send in sends)
    proxy.resume()
    await asyncio.gather(*sends)
    assert [int(delivery.body) for delivery in await inbox.reaches(1000)] == list(range(1000))


async def test_an_unanswered_publish_ends_in_its_time(amqp: AmqpBackend) -> None:
    """faststream#1579: a send whose confirm never comes ends as ConnectionLost after its time, whatever the link does."""
    transport = await amqp.make(ping_interval=60.0)
    await amqp.pause(transport)
    with pytest.raises(ConnectionLost, match="not confirmed"):
        await transport.send(amqp.topology.rpc, "callee", b"", timeout=0.3)
    assert transport.state is LinkState.READY
    await amqp.resume(transport)
    await transport.send(amqp.topology.rpc, "callee", b"", timeout=5)


async def test_a_network_that_takes_nothing_more(amqp: AmqpBackend) -> None:
    """Back-pressure: when the network takes no more bytes sends wait and posts are dropped, instead of memory growing."""
    transport = await amqp.make(ping_interval=60.0, post_buffer=1 << 20)
    await amqp.pause(transport)
    body = b"x" * 262_144
    taken = 0
    outcome: BaseException | None = None
    while not isinstance(outcome, NotSent):  # until the buffers of the operating system are full too
        while transport.post(amqp.topology.broadcast, "", body):
            taken += 1
            await asyncio.sleep(0)
            assert taken < 400, "the buffer has no end"
        (outcome,) = await asyncio.gather(transport.send(amqp.topology.rpc, "callee", b"", timeout=0.2), return_exceptions=True)
        assert isinstance(outcome, NotSent | ConnectionLost)
    assert "too slow" in str(outcome)
    await amqp.resume(transport)
    await transport.send(amqp.topology.rpc, "callee", b"", timeout=10)
    assert transport.epoch == 1


async def test_a_memory_alarm(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M11 (RabbitMQ alarms): with a memory alarm the state is BLOCKED, posts are dropped, sends wait, consuming and acks go on,
    and all of it ends by itself."""
    transport, consuming = await amqp.transport(), await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = amqp.topology.event_group("mailer", ("#",), prefetch=1, max_attempts=3, retry_delays=(0.1,))
    await consuming.consume(spec, inbox, timeout=5)
    for number in range(3):
        await transport.send(amqp.topology.events, "made", b"%d" % number, timeout=5, persistent=True)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.block()
    transport.post(amqp.topology.broadcast, "", b"makes the broker say that it is blocked")
    blocked = await events.next(lambda event: event.state is LinkState.BLOCKED)
    assert blocked.reason
    assert not transport.post(amqp.topology.broadcast, "", b"low", priority=Priority.LOW)
    with pytest.raises(NotSent, match="blocked"):
        await transport.send(amqp.topology.events, "made", b"impatient", timeout=0.2, persistent=True)
    for number in range(3):
        delivery = await inbox.next()
        assert delivery.body == b"%d" % number
        delivery.ack()
    await transport.ping(timeout=2)
    patient = asyncio.create_task(transport.send(amqp.topology.events, "made", b"patient", timeout=30, persistent=True))
    await asyncio.sleep(0)
    await amqp.unblock()
    await patient
    assert (await events.next(lambda event: event.state is LinkState.READY)).epoch == 1
    assert (await inbox.next()).body == b"patient"


async def test_a_long_alarm(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M11: a link that is blocked for longer than every limit of ours, with a ping under way when it begins, is not taken for
    dead, and works when the alarm is over."""
    transport = await amqp.make(ping_interval=0.01, ping_timeout=2.0, operation_timeout=1.0)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.block()
    transport.post(amqp.topology.broadcast, "", b"makes the broker say that it is blocked")
    await events.next(lambda event: event.state is LinkState.BLOCKED)
    with pytest.raises(NotSent, match="blocked"):
        await transport.send(amqp.topology.events, "made", b"", timeout=4)
    await amqp.unblock()
    await transport.send(amqp.topology.events, "made", b"", timeout=10)
    for _ in range(3):
        await transport.ping(timeout=5)
    assert transport.epoch == 1


async def test_a_retry_during_an_alarm_loses_nothing(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """What can't be moved to its delay queue is given back to its queue, within 5 seconds, and comes again."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = amqp.topology.event_group("mailer", ("#",), prefetch=1, max_attempts=9, retry_delays=(0.1,))
    await transport.consume(spec, inbox, timeout=5)
    await transport.send(amqp.topology.events, "made", b"event", timeout=5, persistent=True)
    first = await inbox.next()
    await amqp.block()
    transport.post(amqp.topology.broadcast, "", b"makes the broker say that it is blocked")
    await first.retry("during the alarm")
    again = await inbox.next()
    assert (again.body, again.redelivered) == (b"event", True)
    await amqp.unblock()
    again.ack()


async def test_sizes(amqp: AmqpBackend) -> None:
    """A body of any size up to the limit arrives whole; one byte more is refused before anything is sent."""
    transport = await amqp.transport(max_body=1 << 20)
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    for size in (0, 1, 131_063, 131_064, 131_065, 262_128, 1 << 20):
        body = bytes(index % 251 for index in range(size))
        await transport.send(amqp.topology.rpc, "callee", body, timeout=10, mandatory=True)
        assert (await inbox.next()).body == body
    with pytest.raises(PayloadTooLarge):
        await transport.send(amqp.topology.rpc, "callee", bytes((1 << 20) + 1), timeout=10)
    with pytest.raises(PayloadTooLarge):
        transport.post(amqp.topology.rpc, "callee", bytes((1 << 20) + 1))
    assert transport.epoch == 1
