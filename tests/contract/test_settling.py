"""What becomes of an event that was delivered, on every kind of broker."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import NoRoute
from fabric.transports.base import DeadLetter, QueueSpec, Transport
from fabric.wire.message import Priority
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Events, Inbox, events, letters

TIMEOUT = 10.0


async def test_unacknowledged_comes_again(backend: Backend) -> None:
    """What a lost consumer did not acknowledge goes to another one, counted and marked; what it did does not."""
    topology, one, two = backend.topology, await backend.transport(), await backend.transport()
    first, second = Inbox(), Inbox(ack=True)
    queue = events(topology, "todo.*")
    await one.consume(queue, first, timeout=TIMEOUT)
    for body in (b"a", b"b", b"c"):
        await two.send(topology.events, "todo.created", body, timeout=TIMEOUT, message_id=body.decode(), persistent=True)
    _, done, _ = [await first.next() for _ in range(3)]
    done.ack()
    await one.aclose()
    await two.consume(queue, second, timeout=TIMEOUT)
    again = [await second.next() for _ in range(2)]
    assert [(delivery.body, delivery.message_id, delivery.attempt, delivery.redelivered) for delivery in again] == [
        (b"a", "a", 2, True),
        (b"c", "c", 2, True),
    ]
    await two.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await second.bodies(1) == [b"end"]


async def test_kept_without_consumer(backend: Backend) -> None:
    """A durable queue takes messages while nobody consumes, and gives them to the next that does, also after a restart of all."""
    topology, link = backend.topology, await backend.transport()
    consumer = await link.consume(events(topology, "todo.*"), Inbox(), timeout=TIMEOUT)
    await consumer.aclose()
    await link.send(topology.events, "todo.created", b"kept", timeout=TIMEOUT, persistent=True, mandatory=True)
    await link.aclose()
    inbox = Inbox(ack=True)
    await (await backend.transport()).consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    assert await inbox.bodies(1) == [b"kept"]


async def test_ack_after_consumer_closed(backend: Backend) -> None:
    """Deliveries under way when a consumer is closed may still be acknowledged, and do not come again."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    consumer = await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await link.send(topology.events, "todo.created", b"under way", timeout=TIMEOUT, persistent=True)
    delivery = await inbox.next()
    await consumer.aclose()
    delivery.ack()
    await link.ping(timeout=TIMEOUT)
    await link.aclose()
    other, rest = await backend.transport(), Inbox(ack=True)
    await other.consume(events(topology, "todo.*"), rest, timeout=TIMEOUT)
    await other.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await rest.bodies(1) == [b"end"]


async def test_retry(backend: Backend) -> None:
    """A retried event comes again as it was published, not before its delay; the last delay repeats."""
    topology, link = backend.topology, await backend.transport()
    inbox, loop = Inbox(), asyncio.get_running_loop()
    await link.consume(events(topology, "todo.*", retry_delays=(0.1, 0.3)), inbox, timeout=TIMEOUT)
    await link.send(
        topology.events,
        "todo.created",
        b"poison",
        timeout=TIMEOUT,
        headers={"trace": "t"},
        message_id="m",
        content_type="text/plain",
        priority=Priority.HIGH,
        persistent=True,
    )
    due = 0.0
    for attempt, delay in ((1, 0.1), (2, 0.3), (3, 0.3)):
        delivery = await inbox.next()
        assert loop.time() >= due
        assert (delivery.body, delivery.attempt) == (b"poison", attempt)
        assert (delivery.exchange, delivery.key, delivery.message_id) == (topology.events, "todo.created", "m")
        assert (dict(delivery.headers), delivery.content_type, delivery.priority) == ({"trace": "t"}, "text/plain", Priority.HIGH)
        # Brokers count whole milliseconds.
        due = loop.time() + delay - 0.005
        await delivery.retry(f"failure {attempt}")
    assert (await inbox.next()).attempt == 4
    assert loop.time() >= due


async def test_retry_holds_nobody_up(backend: Backend) -> None:
    """While one event waits for its retry the others go on, also where the consumer takes one at a time."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(events(topology, "todo.*", prefetch=1, retry_delays=(60,)), inbox, timeout=TIMEOUT)
    for body in (b"poison", b"a", b"b"):
        await link.send(topology.events, "todo.created", body, timeout=TIMEOUT, persistent=True)
    await (await inbox.next()).retry("later")
    for body in (b"a", b"b"):
        delivery = await inbox.next()
        assert delivery.body == body
        delivery.ack()


async def test_settled_once(backend: Backend) -> None:
    """Only the first settling of a delivery counts."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*")
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await link.send(topology.events, "todo.created", b"once", timeout=TIMEOUT, persistent=True)
    delivery = await inbox.next()
    delivery.ack()
    delivery.ack()
    await delivery.retry("too late")
    await delivery.reject("too late")
    await link.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await inbox.bodies(1) == [b"end"]
    assert queue.name is not None
    assert await link.dead_letters(queue.name, limit=10, timeout=TIMEOUT) == []


async def test_poison(backend: Backend) -> None:
    """M26 (faststream#1603): an event that always fails is delivered max_attempts times, then kept with reason and history."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*", max_attempts=3)
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await link.send(
        topology.events,
        "todo.created",
        b"poison",
        timeout=TIMEOUT,
        headers={"trace": "t"},
        content_type="text/plain",
        persistent=True,
    )
    for attempt in (1, 2, 3):
        delivery = await inbox.next()
        assert delivery.attempt == attempt
        await delivery.retry(f"failure {attempt}")
    (letter,) = await letters(link, queue.name, 1)
    assert (letter.queue, letter.exchange, letter.key) == (queue.name, topology.events, "todo.created")
    assert (letter.body, letter.content_type, dict(letter.headers)) == (b"poison", "text/plain", {"trace": "t"})
    assert (letter.reason, letter.attempts) == ("failure 3", 3)
    assert [entry["reason"] for entry in letter.history] == ["failure 1", "failure 2", "failure 3"]
    assert [entry["at"] for entry in letter.history] == sorted(entry["at"] for entry in letter.history)
    assert len({entry["instance"] for entry in letter.history}) == 1
    assert letter.died_at > 1_500_000_000
    await link.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await inbox.bodies(1) == [b"end"]


async def test_reject(backend: Backend) -> None:
    """A rejected event is given up at once, and listing it leaves it in place."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*")
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await link.send(topology.events, "todo.created", b"bad", timeout=TIMEOUT, persistent=True)
    await (await inbox.next()).reject("not valid")
    (letter,) = await letters(link, queue.name, 1)
    assert (letter.body, letter.reason, letter.attempts, len(letter.history)) == (b"bad", "not valid", 1, 1)
    assert [again.id for again in await letters(link, queue.name, 1)] == [letter.id]


@pytest.mark.needs(Ability.CUT)
async def test_crash_loop(backend: Backend) -> None:
    """M26: an event whose consumer dies with it each time is given up too, after max_attempts deliveries."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), Events(link)
    queue = events(topology, "todo.*", max_attempts=2)
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await other.send(topology.events, "todo.created", b"deadly", timeout=TIMEOUT, persistent=True)
    for attempt in (1, 2):
        assert (await inbox.next()).attempt == attempt
        await backend.cut(link)
        await seen.until_epoch(attempt + 1)
    (letter,) = await letters(other, queue.name, 1)
    assert (letter.body, letter.attempts, letter.exchange, letter.key) == (b"deadly", 2, topology.events, "todo.created")
    assert letter.reason


async def test_listing(backend: Backend) -> None:
    """Dead letters are listed oldest first, as many as asked for; a queue without any, or that is not there, has none."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*")
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    assert await link.dead_letters(queue.name, limit=10, timeout=TIMEOUT) == []
    for number in range(5):
        await link.send(topology.events, "todo.created", b"%d" % number, timeout=TIMEOUT, persistent=True)
        await (await inbox.next()).reject("bad")
    assert [letter.body for letter in await letters(link, queue.name, 5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert [letter.body for letter in await link.dead_letters(queue.name, limit=2, timeout=TIMEOUT)] == [b"0", b"1"]
    assert await link.dead_letters("no-such-queue", limit=10, timeout=TIMEOUT) == []
    assert len(await letters(link, queue.name, 5)) == 5


async def rejected(link: Transport, backend: Backend, inbox: Inbox, queue: str, *bodies: bytes) -> list[DeadLetter]:
    for body in bodies:
        await link.send(
            backend.topology.events,
            "todo.created",
            body,
            timeout=TIMEOUT,
            headers={"trace": "t"},
            message_id="m",
            persistent=True,
        )
        await (await inbox.next()).reject("bad")
    return await letters(link, queue, len(bodies))


async def test_replay(backend: Backend) -> None:
    """A replayed dead letter is delivered again as it was published, with its attempts counted anew; the others stay."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*", max_attempts=2)
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    _, wanted, _ = await rejected(link, backend, inbox, queue.name, b"a", b"b", b"c")
    assert await link.replay_dead_letter(queue.name, wanted.id, timeout=TIMEOUT)
    again = await inbox.next()
    assert (again.body, again.attempt, again.exchange, again.key) == (b"b", 1, topology.events, "todo.created")
    assert (again.message_id, dict(again.headers)) == ("m", {"trace": "t"})
    await again.retry("once more")
    last = await inbox.next()
    assert (last.body, last.attempt) == (b"b", 2)
    last.ack()
    assert [letter.body for letter in await letters(link, queue.name, 2)] == [b"a", b"c"]
    assert not await link.replay_dead_letter(queue.name, wanted.id, timeout=TIMEOUT)
    assert not await link.replay_dead_letter("no-such-queue", wanted.id, timeout=TIMEOUT)


async def test_discard(backend: Backend) -> None:
    """A discarded dead letter is gone; the others stay in their order."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*")
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    _, unwanted, _ = await rejected(link, backend, inbox, queue.name, b"a", b"b", b"c")
    assert await link.discard_dead_letter(queue.name, unwanted.id, timeout=TIMEOUT)
    assert [letter.body for letter in await letters(link, queue.name, 2)] == [b"a", b"c"]
    assert not await link.discard_dead_letter(queue.name, unwanted.id, timeout=TIMEOUT)
    assert not await link.discard_dead_letter(queue.name, "not an id", timeout=TIMEOUT)


@pytest.mark.needs(Ability.DELETE_QUEUE)
async def test_replay_without_queue(backend: Backend) -> None:
    """Where the queue itself is gone a replay fails, and the dead letter stays."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*")
    assert queue.name is not None
    consumer = await link.consume(queue, inbox, timeout=TIMEOUT)
    (letter,) = await rejected(link, backend, inbox, queue.name, b"a")
    await consumer.aclose()
    await backend.delete_queue(queue.name)
    with pytest.raises(NoRoute):
        await link.replay_dead_letter(queue.name, letter.id, timeout=TIMEOUT)
    assert [kept.body for kept in await letters(link, queue.name, 1)] == [b"a"]


async def test_exclusive_with_ack(backend: Backend) -> None:
    """On a queue that is not durable a retry or reject only acknowledges: there is nowhere to keep the message."""
    link = await backend.transport()
    inbox = Inbox()
    consumer = await link.consume(QueueSpec(name=None, ack=True, prefetch=1), inbox, timeout=TIMEOUT)
    for body in (b"a", b"b", b"end"):
        await link.send("", consumer.address, body, timeout=TIMEOUT)
    first = await inbox.next()
    await first.retry("failed")
    second = await inbox.next()
    await second.reject("failed")
    last = await inbox.next()
    assert (first.body, second.body, last.body) == (b"a", b"b", b"end")
