"""Links to RabbitMQ that go dead, silent or away."""

from __future__ import annotations

import asyncio
import time

import pytest

from fabric.errors import ConfigurationError, ConnectionLost, NotSent, TransportClosed
from fabric.transports.amqp import AmqpTransport
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.backoff import Backoff
from fabric.transports.base import Delivery, LinkEvent, LinkState, QueueSpec
from fabric.transports.topology import Topology
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode, crash
from tests.contract.backend_amqp import AmqpBackend


def ready(event: LinkEvent) -> bool:
    return event.state is LinkState.READY and not event.consumer


def reconnecting(event: LinkEvent) -> bool:
    return event.state is LinkState.RECONNECTING


async def test_a_half_open_link_is_noticed_by_our_ping(amqp: AmqpBackend) -> None:
    """M2 (aio-pika#563, celery#2312): a link on which packets are dropped without a word is noticed within 5 s and replaced."""
    transport = await amqp.make()
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.pause(transport)
    began = time.monotonic()
    noticed = await events.next(reconnecting)
    assert time.monotonic() - began < 5.5
    assert "ping" in noticed.reason
    assert (await events.next(ready)).epoch == 2


async def test_a_stopped_broker_process_is_noticed(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M2 (aio-pika#563): a broker whose process stands still is noticed, and used again when it goes on."""
    transport = await amqp.transport()
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await asyncio.to_thread(private_broker.pause)
    try:
        await events.next(reconnecting)
        with pytest.raises(NotSent):
            await transport.send("", "nobody", b"", timeout=0.2)
    finally:
        await asyncio.to_thread(private_broker.resume)
    await events.next(ready)
    await transport.send("", "nobody", b"", timeout=5)


async def test_amqp_heartbeats_notice_what_no_ping_looks_for(amqp: AmqpBackend) -> None:
    """M2 (celery#2312): with our ping out of the way, AMQP's own heartbeats end a silent link too."""
    transport = await amqp.make(ping_interval=3600.0, heartbeat=1)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.pause(transport)
    began = time.monotonic()
    await events.next(reconnecting)
    assert time.monotonic() - began < 8, "three beats and one, which at the default of 10 s are 33 s"


async def test_a_busy_link_that_only_consumes_is_not_taken_for_dead(amqp: AmqpBackend) -> None:
    """Deliveries bypass aiormq, which still learns that the link lives: longer than its patience of 6 s, nothing is dropped."""
    transport = await amqp.make(heartbeat=1, ping_interval=3600.0)
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("busy"), inbox, timeout=5)
    end = time.monotonic() + 7
    while time.monotonic() < end:
        assert transport.post(amqp.topology.rpc, "busy", b"x")
        await inbox.next()
        await asyncio.sleep(0.01)
    assert transport.epoch == 1


async def test_reconnecting_while_the_server_holds_the_old_link(amqp: AmqpBackend) -> None:
    """M3 (nameko#359): while the broker still holds the old link and its queues, the first call after a reconnect works."""
    transport = await amqp.transport()
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    requests: Inbox[Delivery] = Inbox()
    replies: Inbox[Delivery] = Inbox()
    server = await transport.consume(amqp.topology.requests("callee"), requests, timeout=5)
    client = await transport.consume(QueueSpec(name=None), replies, timeout=5)
    old = server.address, client.address
    await amqp.pause(transport)
    back = await events.next(ready)
    assert back.epoch == 2
    assert not {server.address, client.address} & set(old)
    await transport.send(amqp.topology.rpc, "callee", b"call", timeout=5, mandatory=True)
    assert (await requests.next()).body == b"call"
    assert transport.post("", client.address, b"answer")
    assert (await replies.next()).body == b"answer"
    assert not [event for event in events.all if "RESOURCE_LOCKED" in event.reason]


async def test_a_broker_that_is_down(amqp: AmqpBackend) -> None:
    """M8 (MassTransit#3502, faststream#1579): a send of two seconds fails after two seconds, and is never sent later."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.go_down()
    await events.next(reconnecting)
    began = time.monotonic()
    with pytest.raises(NotSent, match="down"):
        await transport.send(amqp.topology.rpc, "callee", b"stale", timeout=2)
    assert 1.9 < time.monotonic() - began < 2.5
    assert not transport.post(amqp.topology.rpc, "callee", b"stale")
    waiting = asyncio.create_task(transport.send(amqp.topology.rpc, "callee", b"fresh", timeout=15))
    await amqp.come_up()
    await waiting
    await transport.send(amqp.topology.rpc, "callee", b"last", timeout=5)
    await inbox.next(lambda delivery: delivery.body == b"last")
    assert [delivery.body for delivery in inbox.all] == [b"fresh", b"last"]


async def test_what_waits_while_the_link_is_down_is_bounded(amqp: AmqpBackend) -> None:
    """M8 (aio-pika#556): more than the buffer takes is refused at once instead of waiting for its time."""
    transport = await amqp.make(max_waiting=3)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.go_down()
    await events.next(reconnecting)
    waiting = [asyncio.create_task(transport.send("", "nobody", b"", timeout=60)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(NotSent, match="3 messages wait"):
        await transport.send("", "nobody", b"", timeout=60)
    await transport.aclose()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, TransportClosed)


async def test_a_crash_of_the_broker_while_messages_are_under_way(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M1 (aio-pika#231, #588): when the broker crashes under load every send ends, typed and in time, and consumers are back."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    consumer = await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)

    async def one(number: int) -> BaseException | None:
        try:
            await transport.send(amqp.topology.rpc, "callee", b"%d" % number, timeout=2, mandatory=True)
        except (NotSent, ConnectionLost) as error:
            return error
        return None

    async def load() -> list[BaseException | None]:
        ended: list[BaseException | None] = []
        while not (transport.epoch == 2 and ended and ended[-1] is None):
            ended += await asyncio.gather(*(one(number) for number in range(50)))
        return ended

    loading = asyncio.create_task(load())
    await inbox.reaches(500)
    await asyncio.to_thread(crash, private_broker)
    ended = await asyncio.wait_for(loading, 30)
    assert any(isinstance(outcome, ConnectionLost | NotSent) for outcome in ended)
    await events.next(ready)
    await transport.send(amqp.topology.rpc, "callee", b"after", timeout=5, mandatory=True)
    await inbox.next(lambda delivery: delivery.body == b"after")
    assert consumer.address


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_two_hundred_links_come_back_with_jitter(amqp: AmqpBackend) -> None:
    """M33 (aio-pika's fixed 5 s): after an outage 200 transports come back one by one, not in one wave, and all of them."""
    first = await amqp.make(connect=False)
    proxy = amqp.proxy(first)
    backoff = Backoff(first=0.2, most=6.0)
    fleet = [AmqpTransport(AmqpSettings.from_url(proxy.url, backoff=backoff), amqp.topology) for _ in range(200)]
    try:
        for start in range(0, len(fleet), 20):
            await asyncio.gather(*(transport.connect(timeout=30) for transport in fleet[start : start + 20]))
        back: Inbox[LinkEvent] = Inbox()
        for transport in fleet:
            transport.watch(lambda event: back(event) if ready(event) else None)
        await proxy.refuse()
        await asyncio.sleep(3)
        proxy.accepted.clear()
        await proxy.allow()
        began = asyncio.get_running_loop().time()
        await back.reaches(len(fleet), timeout=60)
    finally:
        await asyncio.gather(*(transport.aclose() for transport in fleet))
    came = sorted(at - began for at in proxy.accepted)
    assert came[-1] - came[0] > 2, "they came in one wave"
    busiest = max(sum(1 for at in came if start <= at < start + 0.5) for start in came)
    assert busiest < len(came) / 3, f"{busiest} of {len(came)} connections within half a second"


async def test_closing_hands_over_what_was_posted(amqp: AmqpBackend) -> None:
    """What ``post`` took before ``aclose`` arrives."""
    receiver, sender = await amqp.transport(), await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await receiver.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    for number in range(1000):
        assert sender.post(amqp.topology.rpc, "callee", b"%d" % number)
    await sender.aclose()
    assert [delivery.body for delivery in await inbox.reaches(1000)] == [b"%d" % number for number in range(1000)]
    assert sender.state is LinkState.CLOSED


async def test_no_task_is_left_when_a_transport_is_closed(amqp: AmqpBackend) -> None:
    """After connecting, losing the link, coming back and closing, not one task is left running."""
    before = asyncio.all_tasks()
    transport = AmqpTransport(AmqpSettings.from_url(amqp.proxy(await amqp.make(connect=False)).url), amqp.topology)
    before = asyncio.all_tasks()
    await transport.connect(timeout=10)
    await transport.consume(amqp.topology.requests("callee"), lambda delivery: None, timeout=5)
    events: Inbox[LinkEvent] = Inbox()
    transport.watch(events)
    await amqp.go_down()
    await events.next(reconnecting)
    await amqp.come_up()
    await events.next(ready)
    await transport.aclose()
    mine = {task for task in asyncio.all_tasks() - before if "Proxy" not in repr(task.get_coro())}
    assert not mine


async def test_nobody_listens_there() -> None:
    """Connecting to where nothing listens fails in its time, and says what was tried without the password."""
    transport = AmqpTransport("amqp://user:hunter2@127.0.0.1:1/", Topology("nowhere"))
    with pytest.raises(ConnectionLost) as caught:
        await transport.connect(timeout=0.5)
    assert "amqp://user@127.0.0.1:1/" in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(transport.settings)
    assert transport.state is LinkState.CLOSED
    await transport.aclose()


@pytest.mark.parametrize(("part", "wrong"), [("guest:guest@", "guest:hunter2@"), ("/", "/no-such-vhost")])
async def test_a_refusal_is_not_tried_again(broker: BrokerNode, amqp: AmqpBackend, part: str, wrong: str) -> None:
    """Wrong credentials and a missing virtual host are told at once as what they are, without the password."""
    head, _, tail = broker.url.rpartition(part)
    transport = AmqpTransport(f"{head}{wrong}{tail}", amqp.topology)
    with pytest.raises(ConfigurationError) as caught:
        await transport.connect(timeout=10)
    assert "hunter2" not in str(caught.value)
    await transport.aclose()
