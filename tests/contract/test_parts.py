"""Several messages sent as one body to a durable queue: each is delivered, settled, tried again and given up by itself."""

from __future__ import annotations

import asyncio

from fabric.transports.base import Transport
from fabric.wire import batch
from tests.contract.backends import Backend
from tests.contract.observed import Events, Inbox, events, letters

TIMEOUT = 10.0


async def send(link: Transport, exchange: str, *bodies: bytes, key: str = "todo.created") -> None:
    await link.send(exchange, key, batch.join(bodies), timeout=TIMEOUT, persistent=True, content_type=batch.BATCH)


async def test_each_part_is_a_delivery(backend: Backend) -> None:
    """The parts come in order, as single messages; when all are acknowledged nothing is left."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await send(link, topology.events, b"a", b"b", b"c")
    parts = [await inbox.next() for _ in range(3)]
    assert [part.body for part in parts] == [b"a", b"b", b"c"]
    assert {(part.content_type, part.exchange, part.key, part.attempt, part.redelivered) for part in parts} == {
        ("application/msgpack", topology.events, "todo.created", 1, False)
    }
    for part in reversed(parts):
        part.ack()
    await link.ping(timeout=TIMEOUT)
    await link.aclose()
    other, rest = await backend.transport(), Inbox(ack=True)
    await other.consume(events(topology, "todo.*"), rest, timeout=TIMEOUT)
    await send(other, topology.events, b"end")
    assert await rest.bodies(1) == [b"end"]


async def test_every_queue_gets_all_parts(backend: Backend) -> None:
    """Two groups each get all parts, and one that settles them does nothing to the other's."""
    topology, link = backend.topology, await backend.transport()
    first, second = Inbox(ack=True), Inbox()
    await link.consume(events(topology, "todo.*", group="one"), first, timeout=TIMEOUT)
    await link.consume(events(topology, "todo.*", group="two"), second, timeout=TIMEOUT)
    await send(link, topology.events, b"a", b"b")
    assert await first.bodies(2) == [b"a", b"b"]
    assert await second.bodies(2) == [b"a", b"b"]


async def test_a_part_is_tried_again_alone(backend: Backend) -> None:
    """One failing part comes again, counted, and ends alone as a dead letter with its history; the others are done."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    queue = events(topology, "todo.*", max_attempts=3)
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await send(link, topology.events, b"a", b"poison", b"c")
    for expected in (b"a", b"poison", b"c"):
        part = await inbox.next()
        assert part.body == expected
        if expected == b"poison":
            await part.retry("first")
        else:
            part.ack()
    for attempt in (2, 3):
        part = await inbox.next()
        assert (part.body, part.attempt, part.key) == (b"poison", attempt, "todo.created")
        await part.retry(f"failure {attempt}")
    [letter] = await letters(link, queue.name, 1)
    assert (letter.body, letter.content_type, letter.key, letter.attempts) == (
        b"poison",
        "application/msgpack",
        "todo.created",
        3,
    )
    assert [entry["reason"] for entry in letter.history] == ["first", "failure 2", "failure 3"]
    await send(link, topology.events, b"end")
    assert await inbox.bodies(1) == [b"end"]


async def test_a_part_is_rejected_alone(backend: Backend) -> None:
    """A rejected part is a dead letter at once, and can be replayed by itself."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    queue = events(topology, "todo.*")
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await send(link, topology.events, b"bad", b"good")
    bad, good = [await inbox.next() for _ in range(2)]
    good.ack()
    await bad.reject("no use")
    [letter] = await letters(link, queue.name, 1)
    assert (letter.body, letter.reason, letter.attempts) == (b"bad", "no use", 1)
    assert await link.replay_dead_letter(queue.name, letter.id, timeout=TIMEOUT)
    again = await inbox.next()
    assert (again.body, again.attempt) == (b"bad", 1)


async def test_a_part_is_settled_once(backend: Backend) -> None:
    """Settling a part again does not count for another one: the rest stays to be settled."""
    topology, one, inbox = backend.topology, await backend.transport(), Inbox()
    await one.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await send(one, topology.events, b"a", b"b")
    first = await inbox.next()
    first.ack()
    first.ack()
    await first.retry("too late")
    await first.reject("too late")
    await one.ping(timeout=TIMEOUT)
    await one.aclose()
    two, rest = await backend.transport(), Inbox(ack=True)
    await two.consume(events(topology, "todo.*"), rest, timeout=TIMEOUT)
    while (await rest.next()).body != b"b":
        pass


async def test_prefetch_counts_parts(backend: Backend) -> None:
    """No more parts are under way than the prefetch says, whatever body they came in; each that is settled lets one more in."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    await link.consume(events(topology, "todo.*", prefetch=2), inbox, timeout=TIMEOUT)
    await send(link, topology.events, *(b"%d" % number for number in range(5)))
    held = [await inbox.next() for _ in range(2)]
    seen = [part.body for part in held]
    await link.ping(timeout=TIMEOUT)
    assert inbox.waiting == 0
    while len(seen) < 5:
        held.pop(0).ack()
        part = await inbox.next()
        await link.ping(timeout=TIMEOUT)
        assert inbox.waiting == 0
        seen.append(part.body)
        held.append(part)
    assert sorted(seen) == [b"0", b"1", b"2", b"3", b"4"]


async def test_who_is_slow_shares(backend: Backend) -> None:
    """One body for two consumers that take one message at a time and settle nothing: both have one of its parts."""
    topology = backend.topology
    boxes = []
    for _ in range(2):
        boxes.append(Inbox())
        await (await backend.transport()).consume(events(topology, "todo.*", prefetch=1), boxes[-1], timeout=TIMEOUT)
    await send(await backend.transport(), topology.events, b"a", b"b", b"c")
    one, two = [await box.next() for box in boxes]
    assert {one.body, two.body} < {b"a", b"b", b"c"}
    assert one.body != two.body
    assert one.attempt == two.attempt == 1


async def test_a_lost_consumer_loses_no_part(backend: Backend) -> None:
    """What of a body was not settled when its consumer was lost comes again, counted."""
    topology, one, inbox = backend.topology, await backend.transport(), Inbox()
    await one.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await send(one, topology.events, b"a", b"b", b"c")
    parts = [await inbox.next() for _ in range(3)]
    parts[1].ack()
    await one.ping(timeout=TIMEOUT)
    await one.aclose()
    two, rest = await backend.transport(), Inbox(ack=True)
    await two.consume(events(topology, "todo.*"), rest, timeout=TIMEOUT)
    got: set[bytes] = set()
    while not got >= {b"a", b"c"}:
        part = await rest.next()
        assert (part.attempt, part.redelivered) == (2, True)
        got.add(part.body)


async def test_what_was_done_is_not_done_again_after_a_reconnect(backend: Backend) -> None:
    """M22 (taskiq-aio-pika#46): the link breaks with one part of three settled; the same consumer gets only the others again."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    watched = Events(link)
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await send(link, topology.events, b"a", b"b", b"c")
    first, second, _ = [await inbox.next() for _ in range(3)]
    second.ack()
    await link.ping(timeout=TIMEOUT)
    await backend.cut(link)
    await watched.until_epoch(2)
    again = [await inbox.next() for _ in range(2)]
    assert [(part.body, part.attempt) for part in again] == [(b"a", 2), (b"c", 2)]
    first.ack()
    for part in again:
        part.ack()
    await send(link, topology.events, b"end")
    assert await inbox.bodies(1) == [b"end"]


async def test_a_part_that_kills_does_not_take_the_others_along(backend: Backend) -> None:
    """Whoever takes the second of three parts is lost, again and again: that one is given up alone, the others are done."""
    topology, publisher = backend.topology, await backend.transport()
    queue = events(topology, "todo.*", prefetch=1, max_attempts=4)
    assert queue.name is not None
    done: set[bytes] = set()
    sent = False
    for _ in range(12):
        link, inbox = await backend.transport(), Inbox()
        await link.consume(queue, inbox, timeout=TIMEOUT)
        if not sent:
            sent = True
            await send(publisher, topology.events, b"a", b"killer", b"c")
        async with asyncio.timeout(TIMEOUT):
            while not (found := await publisher.dead_letters(queue.name, limit=9, timeout=TIMEOUT)):
                if not inbox.waiting:
                    await asyncio.sleep(0.01)
                    continue
                part = await inbox.next()
                if part.body == b"killer":
                    break
                part.ack()
                done.add(part.body)
        await link.aclose()
        if found:
            break
    assert [letter.body for letter in found] == [b"killer"]
    rest = Inbox(ack=True)
    await publisher.consume(queue, rest, timeout=TIMEOUT)
    while done != {b"a", b"c"}:
        done.add((await rest.next()).body)


async def test_what_is_no_batch_is_one_delivery(backend: Backend) -> None:
    """M31 (dramatiq#848): a body that claims to be a batch and is none, is empty or is too full comes as it is, to be refused."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    queue = events(topology, "todo.*")
    await link.consume(queue, inbox, timeout=TIMEOUT)
    hostile = (b"\xc1", batch.join(()), batch.join([b"m" * 10] * (batch.MOST_STORED + 1)))
    for body in hostile:
        await link.send(topology.events, "todo.x", body, timeout=TIMEOUT, persistent=True, content_type=batch.BATCH)
        delivery = await inbox.next()
        assert (delivery.body, delivery.content_type) == (body, batch.BATCH)
        await delivery.reject("no message")
    assert queue.name is not None
    assert len(await letters(link, queue.name, 3)) == 3


async def test_closing_gives_back_what_was_not_begun(backend: Backend) -> None:
    """A consumer that closes with one part done and one under way: the rest goes to another one, and nothing is done twice."""
    topology, one, inbox = backend.topology, await backend.transport(), Inbox()
    queue = events(topology, "todo.*", prefetch=1)
    consumer = await one.consume(queue, inbox, timeout=TIMEOUT)
    await send(one, topology.events, b"a", b"b", b"c", b"d")
    (await inbox.next()).ack()
    under_way = await inbox.next()
    await consumer.aclose()
    two, rest = await backend.transport(), Inbox(ack=True)
    await two.consume(queue, rest, timeout=TIMEOUT)
    assert {part.body for part in [await rest.next(), await rest.next()]} == {b"c", b"d"}
    under_way.ack()
    await one.ping(timeout=TIMEOUT)
    await one.aclose()
    await send(two, topology.events, b"end")
    assert await rest.bodies(1) == [b"end"]


async def test_an_ordered_consumer_leaves_nothing_to_do_twice(backend: Backend) -> None:
    """A single active consumer that leaves with a body half done: its successor gets the rest of it only."""
    topology, one, inbox = backend.topology, await backend.transport(), Inbox()
    queue = events(topology, "todo.*", ordered=True)
    consumer = await one.consume(queue, inbox, timeout=TIMEOUT)
    await send(one, topology.events, b"a", b"b", b"c")
    first, _, _ = [await inbox.next() for _ in range(3)]
    first.ack()
    await one.ping(timeout=TIMEOUT)
    await consumer.aclose()
    two, rest = await backend.transport(), Inbox(ack=True)
    await two.consume(queue, rest, timeout=TIMEOUT)
    assert {part.body for part in [await rest.next(), await rest.next()]} == {b"b", b"c"}
    await send(two, topology.events, b"end")
    assert await rest.bodies(1) == [b"end"]
