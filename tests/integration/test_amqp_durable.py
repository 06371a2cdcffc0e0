"""Durable queues on RabbitMQ: what is tried again, what is given up, and what strangers can do to that."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import NoRoute
from fabric.transports.base import DeadLetter, Delivery, LinkEvent, LinkState, QueueSpec
from fabric.transports.topology import Topology
from fabric.wire.message import Priority
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend


def group(topology: Topology, *, max_attempts: int = 3, retry_delays: tuple[float, ...] = (0.05, 0.1)) -> QueueSpec:
    return topology.event_group("mailer", ("todo.*",), prefetch=10, max_attempts=max_attempts, retry_delays=retry_delays)


async def test_a_poison_event(amqp: AmqpBackend) -> None:
    """M26 (faststream#1603): an event that always fails is tried a bounded number of times, later each time, then kept with its
    reason, attempts and history."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = group(amqp.topology)
    queue = spec.name or ""
    await transport.consume(spec, inbox, timeout=5)
    await transport.send(
        amqp.topology.events,
        "todo.made",
        b"poison",
        timeout=5,
        persistent=True,
        priority=Priority.HIGH,
        headers={"trace": "t1", "weight": 0.1, "raw": b"\x00\xff", "big": 2**60, "list": [None, True, {"a": 1}]},
        message_id="order-1",
    )
    for attempt in (1, 2, 3):
        delivery = await inbox.next()
        assert delivery.attempt == attempt
        assert (delivery.exchange, delivery.key) == (amqp.topology.events, "todo.made")
        assert (delivery.message_id, delivery.priority) == ("order-1", Priority.HIGH)
        assert delivery.headers["weight"] == 0.1
        assert delivery.headers["big"] == 2**60
        assert delivery.headers["raw"] == b"\x00\xff"
        assert delivery.headers["list"] == [None, True, {"a": 1}]
        await delivery.retry(f"failure {attempt}")
    for _ in range(2):
        (letter,) = await transport.dead_letters(queue, limit=10, timeout=5)
    assert (letter.queue, letter.exchange, letter.key) == (queue, amqp.topology.events, "todo.made")
    assert (letter.body, letter.reason, letter.attempts) == (b"poison", "failure 3", 3)
    assert [entry["reason"] for entry in letter.history] == ["failure 1", "failure 2", "failure 3"]
    assert letter.headers["trace"] == "t1"
    assert len(inbox) == 3
    assert await transport.replay_dead_letter(queue, letter.id, timeout=5)
    replayed = await inbox.next()
    assert (replayed.attempt, replayed.message_id, replayed.key) == (1, "order-1", "todo.made")
    replayed.ack()
    assert not await transport.dead_letters(queue, limit=10, timeout=5)
    assert not await transport.replay_dead_letter(queue, letter.id, timeout=5)
    assert not await transport.discard_dead_letter(queue, letter.id, timeout=5)


async def test_an_event_that_takes_its_consumers_down(amqp: AmqpBackend) -> None:
    """M26: an event whose consumers die with it, settling nothing, is given up after as many deliveries."""
    spec = group(amqp.topology, max_attempts=3)
    publisher = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await publisher.send(amqp.topology.events, "nobody", b"", timeout=5)
    for attempt in (1, 2, 3):
        victim = await amqp.transport()
        await victim.consume(spec, inbox, timeout=5)
        if attempt == 1:
            await publisher.send(amqp.topology.events, "todo.made", b"killer", timeout=5, mandatory=True, persistent=True)
        assert (await inbox.next()).attempt == attempt
        amqp.proxy(victim).cut()
        await victim.aclose()
    survivor = await amqp.transport()
    await survivor.consume(spec, inbox, timeout=5)
    letters: list[DeadLetter] = []
    async with asyncio.timeout(10):
        while not letters:
            letters = await survivor.dead_letters(spec.name or "", limit=10, timeout=5)
    (letter,) = letters
    assert (letter.body, letter.exchange, letter.key) == (b"killer", amqp.topology.events, "todo.made")
    assert letter.attempts == 3
    assert len(inbox) == 3


async def test_nothing_stale_is_acknowledged(amqp: AmqpBackend) -> None:
    """M22 (taskiq-aio-pika#46, rabbot#47): what came before a reconnect can't be acknowledged after it, and comes again."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    events: Inbox[LinkEvent] = Inbox()
    await transport.consume(group(amqp.topology), inbox, timeout=5)
    transport.watch(events)
    await transport.send(amqp.topology.events, "todo.made", b"event", timeout=5, mandatory=True, persistent=True)
    stale = await inbox.next()
    await amqp.cut(transport)
    await events.next(lambda event: event.state is LinkState.READY)
    again = await inbox.next()
    stale.ack()
    await stale.retry("stale")
    await stale.reject("stale")
    assert (again.body, again.attempt) == (b"event", 2)
    again.ack()
    await transport.send(amqp.topology.events, "todo.made", b"next", timeout=5, mandatory=True, persistent=True)
    assert (await inbox.next()).body == b"next"
    assert transport.epoch == 2
    assert len(inbox) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"x-fabric-attempts": 99, "x-fabric-exchange": "elsewhere", "x-fabric-user": "root"},
        {"x-fabric-attempts": "many", "x-fabric-history": 7, "x-delivery-count": 99, "x-death": "never"},
        {"x-fabric-message-id": 12, "x-delivery-count": -1},
    ],
)
async def test_what_strangers_claim_is_not_believed(amqp: AmqpBackend, headers: dict[str, object]) -> None:
    """Headers with our names, from a client that the broker does not vouch for as us, change nothing."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = group(amqp.topology)
    await transport.consume(spec, inbox, timeout=5)
    await amqp.publish_foreign(amqp.topology.events, "todo.made", b"stranger", headers=headers)
    first = await inbox.next()
    assert (first.attempt, first.exchange, first.user_id) == (1, amqp.topology.events, None)
    assert not first.headers
    await first.retry("once")
    second = await inbox.next()
    assert (second.attempt, second.exchange, second.user_id) == (2, amqp.topology.events, None)
    await second.reject("enough")
    (letter,) = await transport.dead_letters(spec.name or "", limit=1, timeout=5)
    assert (letter.attempts, letter.reason) == (2, "enough")


async def test_who_published_is_known_after_a_retry(amqp: AmqpBackend) -> None:
    """The user that the broker vouched for is still told when a message comes again."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(group(amqp.topology), inbox, timeout=5)
    await transport.send(amqp.topology.events, "todo.made", b"event", timeout=5, persistent=True)
    first = await inbox.next()
    await first.retry("once")
    second = await inbox.next()
    assert first.user_id == second.user_id == transport.settings.user
    second.ack()


async def test_dead_letters_stay_in_order(amqp: AmqpBackend) -> None:
    """Looking at dead letters many times neither loses nor wears out nor reorders them; one can be taken from the middle."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = group(amqp.topology)
    queue = spec.name or ""
    await transport.consume(spec, inbox, timeout=5)
    for number in range(5):
        await transport.send(amqp.topology.events, "todo.made", b"%d" % number, timeout=5, persistent=True)
        await (await inbox.next()).reject("no")
    for _ in range(25):
        letters = await transport.dead_letters(queue, limit=3, timeout=5)
        assert [letter.body for letter in letters] == [b"0", b"1", b"2"]
    assert await transport.discard_dead_letter(queue, letters[1].id, timeout=5)
    assert [letter.body for letter in await transport.dead_letters(queue, limit=9, timeout=5)] == [b"0", b"2", b"3", b"4"]


async def test_a_dead_letter_of_a_queue_that_is_gone(amqp: AmqpBackend) -> None:
    """Replaying into a queue that no longer exists fails and keeps the letter."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = group(amqp.topology)
    queue = spec.name or ""
    consumer = await transport.consume(spec, inbox, timeout=5)
    await transport.send(amqp.topology.events, "todo.made", b"event", timeout=5, persistent=True)
    await (await inbox.next()).reject("no")
    await consumer.aclose()
    await amqp.delete_queue(queue)
    (letter,) = await transport.dead_letters(queue, limit=9, timeout=5)
    with pytest.raises(NoRoute):
        await transport.replay_dead_letter(queue, letter.id, timeout=5)
    assert len(await transport.dead_letters(queue, limit=9, timeout=5)) == 1
    assert await transport.dead_letters("no-such-queue", limit=9, timeout=5) == []


async def test_a_delay_does_not_hold_up_others(amqp: AmqpBackend) -> None:
    """While one message waits for its next attempt the others of its queue are delivered."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(group(amqp.topology, retry_delays=(0.5,)), inbox, timeout=5)
    await transport.send(amqp.topology.events, "todo.made", b"fails", timeout=5, persistent=True)
    await (await inbox.next()).retry("once")
    await transport.send(amqp.topology.events, "todo.made", b"fine", timeout=5, persistent=True)
    second, third = await inbox.next(), await inbox.next()
    assert (second.body, third.body) == (b"fine", b"fails")
    second.ack()
    third.ack()


async def test_a_delay_whose_queue_is_deleted(amqp: AmqpBackend) -> None:
    """What a delay held is gone with its queue; the next event with that delay makes it anew, and comes."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(group(amqp.topology), inbox, timeout=5)
    await transport.send(amqp.topology.events, "todo.made", b"gone", timeout=5, delay=8)
    await amqp.delete_queue(amqp.topology.delayed(8000))
    await transport.send(amqp.topology.events, "todo.made", b"comes", timeout=5, delay=8)
    assert (await inbox.next()).body == b"comes"
    assert len(inbox) == 1


async def test_dead_letters_over_a_restart(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """A restarted broker has its dead letters as they were, with reason and history, and replays them."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    spec = group(amqp.topology, max_attempts=1)
    queue = spec.name or ""
    await transport.consume(spec, inbox, timeout=5)
    await transport.send(amqp.topology.events, "todo.made", b"poison", timeout=5, persistent=True)
    await (await inbox.next()).retry("broken")
    (before,) = await transport.dead_letters(queue, limit=10, timeout=10)
    await amqp.restart()
    (after,) = await transport.dead_letters(queue, limit=10, timeout=30)
    assert after == before
    assert await transport.replay_dead_letter(queue, after.id, timeout=10)
    assert (await inbox.next()).body == b"poison"
