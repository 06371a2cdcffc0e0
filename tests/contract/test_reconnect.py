"""What a transport does when its link breaks, on every kind of broker."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import ConnectionLost, FabricError, NoRoute, NotSent
from fabric.transports.base import LinkState, QueueSpec
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Events, Inbox, events, outcome, until

TIMEOUT = 10.0


@pytest.mark.needs(Ability.CUT)
async def test_new_epoch(backend: Backend) -> None:
    """After a broken link the transport is ready again by itself, one epoch later, and says each step with a reason."""
    link = await backend.transport()
    seen = Events(link)
    assert (link.state, link.epoch) == (LinkState.READY, 1)
    for epoch in (2, 3):
        await backend.cut(link)
        await seen.until_epoch(epoch)
        assert (link.state, link.epoch) == (LinkState.READY, epoch)
    steps = [(event.state, event.epoch) for event in seen.seen]
    assert steps == [
        (LinkState.RECONNECTING, 1),
        (LinkState.READY, 2),
        (LinkState.RECONNECTING, 2),
        (LinkState.READY, 3),
    ]
    assert all(event.reason for event in seen.seen if event.state is LinkState.RECONNECTING)


@pytest.mark.needs(Ability.CUT)
async def test_new_reply_address(backend: Backend) -> None:
    """M3 (nameko#359): each epoch has its own reply address, there when READY is told; the old one leads nowhere."""
    link, other = await backend.transport(), await backend.transport()
    inbox, addresses = Inbox(), []
    consumer = await link.consume(QueueSpec(name=None), inbox, timeout=TIMEOUT)
    link.watch(lambda event: addresses.append(consumer.address) if event.state is LinkState.READY else None)
    old, seen = consumer.address, Events(link)
    await backend.cut(link)
    await seen.until_epoch(2)
    assert addresses == [consumer.address]
    assert consumer.address != old
    await other.send("", consumer.address, b"new", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(1) == [b"new"]

    async def old_is_gone() -> bool:
        return isinstance(await outcome(other.send("", old, b"old", timeout=TIMEOUT, mandatory=True)), NoRoute)

    await until(old_is_gone)
    assert not inbox.waiting


@pytest.mark.needs(Ability.CUT)
async def test_consumers_restored(backend: Backend) -> None:
    """Consumers come back with the keys of now: those bound since are there, those unbound are not."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), Events(link)
    consumer = await link.consume(topology.discoveries("first", "dropped"), inbox, timeout=TIMEOUT)
    await consumer.bind("added")
    await consumer.unbind("dropped")
    await backend.cut(link)
    await seen.until_epoch(2)
    await other.send(topology.discovery, "first", b"1", timeout=TIMEOUT, mandatory=True)
    await other.send(topology.discovery, "added", b"2", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(2) == [b"1", b"2"]
    await consumer.unbind("first")
    with pytest.raises(NoRoute):
        await other.send(topology.discovery, "first", b"x", timeout=TIMEOUT, mandatory=True)
    assert isinstance(await outcome(other.send(topology.discovery, "dropped", b"x", timeout=TIMEOUT, mandatory=True)), NoRoute)


@pytest.mark.needs(Ability.CUT)
async def test_closed_consumer_stays_closed(backend: Backend) -> None:
    """A consumer that was closed is not restored."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    seen = Events(link)
    consumer = await link.consume(topology.requests("one"), Inbox(), timeout=TIMEOUT)
    await consumer.aclose()
    await backend.cut(link)
    await seen.until_epoch(2)
    with pytest.raises(NoRoute):
        await other.send(topology.rpc, "one", b"x", timeout=TIMEOUT, mandatory=True)


@pytest.mark.needs(Ability.CUT)
async def test_first_send_after_a_cut(backend: Backend) -> None:
    """M3: what is sent while the link is being restored arrives, once the link and its consumers are there."""
    topology, link = backend.topology, await backend.transport()
    inbox, seen = Inbox(), Events(link)
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await backend.cut(link)
    await seen.until_state(LinkState.RECONNECTING)
    await link.send(topology.rpc, "one", b"waited", timeout=TIMEOUT, mandatory=True)
    assert link.epoch == 2
    assert await inbox.bodies(1) == [b"waited"]


@pytest.mark.needs(Ability.CUT)
async def test_stale_settling(backend: Backend) -> None:
    """M22 (taskiq-aio-pika#46, rabbot#47): settling a delivery of an older epoch does nothing, neither to it nor to the link."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), Events(link)
    queue = events(topology, "todo.*", max_attempts=10)
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    for body in (b"a", b"b", b"c"):
        await other.send(topology.events, "todo.created", body, timeout=TIMEOUT, persistent=True)
    old = [await inbox.next() for _ in range(3)]
    await backend.cut(link)
    await seen.until_epoch(2)
    again = [await inbox.next() for _ in range(3)]
    old[0].ack()
    await old[1].retry("stale")
    await old[2].reject("stale")
    await link.ping(timeout=TIMEOUT)
    assert link.epoch == 2
    await backend.cut(link)
    await seen.until_epoch(3)
    third = [await inbox.next() for _ in range(3)]
    assert [delivery.body for delivery in again] == [delivery.body for delivery in third] == [b"a", b"b", b"c"]
    assert [delivery.attempt for delivery in third] == [3, 3, 3]
    for delivery in third:
        delivery.ack()
    assert await link.dead_letters(queue.name, limit=10, timeout=TIMEOUT) == []
    await other.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await inbox.bodies(1) == [b"end"]


@pytest.mark.needs(Ability.CUT)
async def test_cut_under_load(backend: Backend) -> None:
    """M1 (aio-pika#231, #588): when the link breaks under load every send ends, in success or typed; none is lost silently."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), Events(link)
    await other.consume(topology.requests("one"), inbox, timeout=TIMEOUT)

    async def send(number: int) -> int | None:
        for _ in range(number % 7):
            await asyncio.sleep(0)
        try:
            await link.send(topology.rpc, "one", b"%d" % number, timeout=TIMEOUT, mandatory=True)
        except (ConnectionLost, NotSent):
            return None
        return number

    async with asyncio.timeout(TIMEOUT * 2), asyncio.TaskGroup() as group:
        sends = [group.create_task(send(number)) for number in range(300)]
        await backend.cut(link)
        await seen.until_epoch(2)
        sends += [group.create_task(send(number)) for number in range(300, 400)]
    confirmed = {number for send in sends if (number := send.result()) is not None}
    assert confirmed >= set(range(300, 400))
    await link.send(topology.rpc, "one", b"end", timeout=TIMEOUT)
    arrived = set()
    while (body := (await inbox.next()).body) != b"end":
        arrived.add(int(body))
    assert confirmed <= arrived


@pytest.mark.needs(Ability.RESTART)
async def test_restart(backend: Backend) -> None:
    """M1: after a restart of the broker every link is back; durable queues have what they held, exclusive ones are new."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    requests, todo, seen = Inbox(), Inbox(), (Events(link), Events(other))
    first = await link.consume(events(topology, "todo.*", prefetch=1), todo, timeout=TIMEOUT)
    await link.consume(topology.requests("one"), requests, timeout=TIMEOUT)
    for body in (b"in hand", b"waiting"):
        await other.send(topology.events, "todo.created", body, timeout=TIMEOUT, persistent=True)
    assert await todo.bodies(1) == [b"in hand"]
    await backend.restart()
    for watched in seen:
        await watched.until_epoch(2)
    again = await todo.next()
    assert (again.body, again.redelivered) == (b"in hand", True)
    again.ack()
    assert await todo.bodies(1) == [b"waiting"]
    assert first.address == events(topology, "todo.*").name
    await other.send(topology.rpc, "one", b"call", timeout=TIMEOUT, mandatory=True)
    assert await requests.bodies(1) == [b"call"]


@pytest.mark.needs(Ability.UNREACHABLE)
async def test_nothing_stale_is_sent(backend: Backend) -> None:
    """M8 (MassTransit#3502, faststream#1579): with the broker down a send ends as NotSent in its time and never arrives later."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(ack=True), (Events(link), Events(other))
    await other.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await backend.go_down()
    for watched in seen:
        await watched.until_state(LinkState.RECONNECTING)
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(5):
        for error in await asyncio.gather(
            *(outcome(link.send(topology.events, "todo.created", b"stale", timeout=0.3, persistent=True)) for _ in range(20))
        ):
            assert isinstance(error, NotSent)
    assert asyncio.get_running_loop().time() - began >= 0.29
    assert not link.post(topology.events, "todo.created", b"stale")
    await backend.come_up()
    for watched in seen:
        await watched.until_epoch(2)
    await link.send(topology.events, "todo.created", b"fresh", timeout=TIMEOUT, persistent=True)
    assert await inbox.bodies(1) == [b"fresh"]


@pytest.mark.needs(Ability.UNREACHABLE)
async def test_waits_within_limits(backend: Backend) -> None:
    """With the broker down everything that waits ends in its time with a ConnectionLost that says what to look at."""
    topology, link = backend.topology, await backend.transport()
    seen = Events(link)
    fresh = await backend.transport(connect=False)
    await backend.go_down()
    await seen.until_state(LinkState.RECONNECTING)
    async with asyncio.timeout(5):
        errors = await asyncio.gather(
            outcome(fresh.connect(timeout=0.3)),
            outcome(link.consume(topology.requests("one"), Inbox(), timeout=0.3)),
            outcome(link.ping(timeout=0.3)),
            outcome(link.dead_letters("q", limit=1, timeout=0.3)),
            outcome(link.replay_dead_letter("q", "i", timeout=0.3)),
            outcome(link.discard_dead_letter("q", "i", timeout=0.3)),
        )
    for error in errors:
        assert type(error) is ConnectionLost
        assert str(error)
    assert fresh.epoch == 0
    await backend.come_up()
    await fresh.connect(timeout=TIMEOUT)
    assert (fresh.state, fresh.epoch) == (LinkState.READY, 1)


@pytest.mark.needs(Ability.UNREACHABLE)
async def test_waiting_calls_go_on(backend: Backend) -> None:
    """What waits for the link with time enough goes on when the broker is back: sends, and consumers that were just asked for."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), (Events(link), Events(other))
    await backend.go_down()
    for watched in seen:
        await watched.until_state(LinkState.RECONNECTING)
    async with asyncio.TaskGroup() as group:
        consuming = group.create_task(link.consume(topology.requests("one"), inbox, timeout=TIMEOUT * 2))
        pinging = group.create_task(link.ping(timeout=TIMEOUT * 2))
        group.create_task(other.send(topology.rpc, "nobody", b"x", timeout=TIMEOUT * 2))
        await asyncio.sleep(0)
        await backend.come_up()
    assert consuming.result().address
    assert pinging.result() >= 0
    await other.send(topology.rpc, "one", b"call", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(1) == [b"call"]


@pytest.mark.needs(Ability.UNREACHABLE)
async def test_abandoned_consume(backend: Backend) -> None:
    """A consume that ended with its time is not there when the broker is back."""
    topology, link = backend.topology, await backend.transport()
    seen = Events(link)
    await backend.go_down()
    await seen.until_state(LinkState.RECONNECTING)
    with pytest.raises(ConnectionLost):
        await link.consume(topology.requests("one"), Inbox(), timeout=0.1)
    await backend.come_up()
    await seen.until_epoch(2)
    with pytest.raises(NoRoute):
        await link.send(topology.rpc, "one", b"x", timeout=TIMEOUT, mandatory=True)


@pytest.mark.needs(Ability.PAUSE)
async def test_half_open(backend: Backend) -> None:
    """M2, M3 (aio-pika#563, nameko#359): a link on which nothing passes is given up by itself, and while the broker still
    believes in the old one the new one works at once."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(), Events(link)
    consumer = await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    old = consumer.address
    await backend.pause(link)
    await seen.until_state(LinkState.RECONNECTING)
    await seen.until_epoch(2)
    assert consumer.address != old
    await other.send("", consumer.address, b"direct", timeout=TIMEOUT, mandatory=True)
    await other.send(topology.rpc, "one", b"call", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(2) == [b"direct", b"call"]
    await backend.resume(link)
    await link.ping(timeout=TIMEOUT)
    assert link.epoch == 2


@pytest.mark.needs(Ability.PAUSE)
async def test_send_on_half_open(backend: Backend) -> None:
    """M2: a send that was handed to a link on which nothing passes ends in its time, and does not pretend to know."""
    topology, link = backend.topology, await backend.transport()
    await backend.pause(link)
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionLost):
            await link.send(topology.rpc, "nobody", b"x", timeout=0.2)
    await backend.resume(link)


@pytest.mark.needs(Ability.PAUSE)
async def test_pause_that_ends(backend: Backend) -> None:
    """A link that was held up only shortly goes on in the same epoch, and nothing on it was lost."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await backend.pause(link)
    await other.send(topology.rpc, "one", b"held", timeout=TIMEOUT, mandatory=True)
    await backend.resume(link)
    assert await inbox.bodies(1) == [b"held"]
    assert link.epoch == 1


async def test_unwatch(backend: Backend) -> None:
    """A listener hears nothing more after it ended, and one that raises harms neither the link nor the others."""
    link = await backend.transport()
    heard: list[LinkState] = []
    end = link.watch(lambda event: heard.append(event.state))
    end()
    end()
    seen = Events(link)
    await link.aclose()
    assert [event.state for event in seen.seen] == [LinkState.CLOSED]
    assert heard == []


async def test_errors_are_ours(backend: Backend) -> None:
    """Whatever a broken link raises is a FabricError with advice or a reason."""
    link = await backend.transport()
    await link.aclose()
    error = await outcome(link.ping(timeout=1))
    assert isinstance(error, FabricError)
    assert str(error)
