"""What the network object of the memory transport can do beyond the contract, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fabric.errors import ConfigurationError, ConnectionLost, NotSent, TopologyConflict
from fabric.transports.base import ExchangeKind, LinkState, QueueSpec
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology
from tests.contract.observed import Events, Inbox, events, outcome
from tests.unit.transports.hand_clock import HandClock

TOPOLOGY = Topology("unit")


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def network(clock: HandClock) -> AsyncIterator[MemoryNetwork]:
    async with MemoryNetwork(clock=clock, most_bytes=100_000, most_queue_bytes=20_000) as network:
        yield network


async def connected(network: MemoryNetwork, **options: str) -> MemoryTransport:
    transport = MemoryTransport(network, TOPOLOGY, **options)  # type: ignore[arg-type]
    await transport.connect(timeout=5)
    return transport


async def test_networks_are_apart(network: MemoryNetwork) -> None:
    """Two networks share nothing."""
    async with MemoryNetwork() as other:
        inbox = Inbox()
        await (await connected(network)).consume(TOPOLOGY.requests("one"), inbox, timeout=5)
        elsewhere = await connected(other)
        await elsewhere.send(TOPOLOGY.rpc, "one", b"x", timeout=5)
        assert not inbox.waiting


async def test_receiver_runs_in_a_later_turn(network: MemoryNetwork) -> None:
    """A receiver never runs within the send or post that it follows from, and one that raises harms nobody."""
    raised: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    link, inbox, got = await connected(network), Inbox(), list[bytes]()

    def receive(delivery: object) -> None:
        got.append(b"")
        raise RuntimeError("a receiver must not raise")

    await link.consume(TOPOLOGY.requests("bad"), receive, timeout=5)
    await link.consume(TOPOLOGY.requests("good"), inbox, timeout=5)
    assert link.post(TOPOLOGY.rpc, "bad", b"x")
    assert link.post(TOPOLOGY.rpc, "good", b"x")
    assert (got, inbox.waiting) == ([], 0)
    await inbox.next()
    assert len(got) == len(raised) == 1


async def test_retry_on_the_clock(network: MemoryNetwork, clock: HandClock) -> None:
    """Retries wait on the injected clock alone."""
    link, inbox = await connected(network), Inbox()
    await link.consume(events(TOPOLOGY, "todo.*", retry_delays=(60.0, 600.0)), inbox, timeout=5)
    await link.send(TOPOLOGY.events, "todo.created", b"x", timeout=5)
    for delay in (60.0, 600.0, 600.0):
        await (await inbox.next()).retry("later")
        await clock.advance(delay - 1)
        assert not inbox.waiting
        await clock.advance(1)
        assert inbox.waiting
    assert (await inbox.next()).attempt == 4


async def test_expiry_on_the_clock(network: MemoryNetwork, clock: HandClock) -> None:
    """Expiry runs on the injected clock, ends with the first delivery, and does not touch a replayed dead letter."""
    link, inbox = await connected(network), Inbox()
    queue = events(TOPOLOGY, "todo.*", prefetch=1, retry_delays=(100.0,))
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=5)
    for body in (b"taken", b"expires"):
        await link.send(TOPOLOGY.events, "todo.created", body, timeout=5, expires=50)
    taken = await inbox.next()
    await clock.advance(51)
    await taken.retry("later")
    await clock.advance(100)
    again = await inbox.next()
    assert (again.body, again.attempt) == (b"taken", 2)
    await again.reject("bad")
    (letter,) = await link.dead_letters(queue.name, limit=5, timeout=5)
    assert await link.replay_dead_letter(queue.name, letter.id, timeout=5)
    assert (await inbox.next()).body == b"taken"
    assert not inbox.waiting


async def test_retry_survives_a_restart(network: MemoryNetwork, clock: HandClock) -> None:
    """What waits for its retry when all links break is delivered all the same; for a queue that is gone it is dropped."""
    link, inbox = await connected(network), Inbox()
    queue = events(TOPOLOGY, "todo.*", retry_delays=(60.0,))
    seen = Events(link)
    await link.consume(queue, inbox, timeout=5)
    await link.send(TOPOLOGY.events, "todo.created", b"x", timeout=5)
    await (await inbox.next()).retry("later")
    network.restart()
    await clock.advance(61)
    await seen.until_epoch(2)
    again = await inbox.next()
    assert again.attempt == 2
    await again.retry("again")
    await link.aclose()
    assert network.delete_queue(queue.name or "")
    await clock.advance(61)
    assert network.broker.alarm.held == 0


async def test_nothing_is_held_in_the_end(network: MemoryNetwork, clock: HandClock) -> None:
    """The bytes that the alarm counts return to none, whichever way messages leave."""
    link, inbox = await connected(network), Inbox()
    queue = events(TOPOLOGY, "todo.*", prefetch=1, retry_delays=(1.0,))
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=5)
    for body in (b"acked", b"rejected", b"retried", b"given back", b"expires"):
        await link.send(TOPOLOGY.events, "todo.created", body, timeout=5, expires=30 if body == b"expires" else None)
    (await inbox.next()).ack()
    await (await inbox.next()).reject("bad")
    await (await inbox.next()).retry("later")
    await inbox.next()
    network.cut(link)
    await clock.advance(40)
    for _ in range(2):
        (await inbox.next()).ack()
    (letter,) = await link.dead_letters(queue.name, limit=9, timeout=5)
    assert network.broker.alarm.held > 0
    await link.discard_dead_letter(queue.name, letter.id, timeout=5)
    assert network.broker.alarm.held == 0
    consumer = await link.consume(QueueSpec(name=None, ack=True, prefetch=1), Inbox(), timeout=5)
    for _ in range(3):
        await link.send("", consumer.address, b"left", timeout=5)
    assert network.broker.alarm.held > 0
    await link.aclose()
    assert network.broker.alarm.held == 0


async def test_memory_alarm(network: MemoryNetwork) -> None:
    """M11: what is held beyond the limit blocks publishers, who are told why, and goes on alone when enough was taken."""
    link, inbox = await connected(network), Inbox()
    seen = Events(link)
    await link.consume(events(TOPOLOGY, "todo.*", prefetch=1), inbox, timeout=5)
    sent = 0
    while await outcome(link.send(TOPOLOGY.events, "todo.created", bytes(10_000), timeout=0.05)) is None:
        sent += 1
    assert 9 <= sent <= 11
    assert (seen.seen[-1].state, seen.seen[-1].reason) == (LinkState.BLOCKED, "too many bytes are held")
    late = await connected(network)
    assert (late.state, late.epoch) == (LinkState.BLOCKED, 1)
    for _ in range(sent):
        (await inbox.next()).ack()
    await seen.until_state(LinkState.READY)
    assert late.state is LinkState.READY


async def test_full_queue(network: MemoryNetwork) -> None:
    """M30: an exclusive queue whose reader stopped refuses more, so that it does not block everybody else."""
    link, other, inbox = await connected(network), await connected(network), Inbox()
    slow = await link.consume(QueueSpec(name=None, ack=True, prefetch=1), Inbox(), timeout=5)
    await other.consume(TOPOLOGY.requests("good"), inbox, timeout=5)
    for _ in range(3):
        await other.send("", slow.address, bytes(10_000), timeout=5)
    error = await outcome(other.send("", slow.address, b"more", timeout=5))
    assert isinstance(error, NotSent)
    assert "full" in str(error)
    await other.send(TOPOLOGY.rpc, "good", b"x", timeout=5, mandatory=True)
    assert await inbox.bodies(1) == [b"x"]
    assert other.state is LinkState.READY


async def test_full_queue_forgets_what_expired(network: MemoryNetwork, clock: HandClock) -> None:
    """Before a full queue refuses it drops what nobody waits for any more."""
    link = await connected(network)
    slow = await link.consume(QueueSpec(name=None, ack=True, prefetch=1), Inbox(), timeout=5)
    for _ in range(3):
        await link.send("", slow.address, bytes(10_000), timeout=5, expires=1)
    await clock.advance(2)
    await link.send("", slow.address, b"more", timeout=5)


async def test_partition(network: MemoryNetwork, clock: HandClock) -> None:
    """A partition keeps just the named transports away, until it heals."""
    near, far = await connected(network), await connected(network)
    network.partition(far)
    await clock.advance(30)
    assert (near.state, far.state) == (LinkState.READY, LinkState.RECONNECTING)
    network.heal()
    await clock.advance(10)
    assert (far.state, far.epoch) == (LinkState.READY, 2)


async def test_half_open_link_at_the_broker(network: MemoryNetwork, clock: HandClock) -> None:
    """M3: the broker believes in a half-open link for its own time: then its exclusive queue goes and its events go elsewhere."""
    link, other = await connected(network), await connected(network)
    first, second = Inbox(), Inbox()
    await link.consume(events(TOPOLOGY, "todo.*"), first, timeout=5)
    await other.consume(events(TOPOLOGY, "todo.*"), second, timeout=5)
    for body in (b"1", b"2"):
        await other.send(TOPOLOGY.events, "todo.created", body, timeout=5)
    held = await first.next()
    assert (await second.next()).body != held.body
    network.pause(link)
    network.partition(other)
    await clock.advance(6)
    assert (link.state, link.epoch) == (LinkState.READY, 2)
    assert network.links == 2
    assert (await first.next()).body != held.body
    assert not first.waiting
    await clock.advance(30)
    assert network.links == 1
    again = await first.next()
    assert (again.body, again.attempt) == (held.body, 2)


async def test_paused_work_is_kept(network: MemoryNetwork) -> None:
    """What is sent, posted, asked and acknowledged on a paused link happens in its order when the pause ends."""
    link, inbox = await connected(network), Inbox()
    consumer = await link.consume(QueueSpec(name=None, ack=True, prefetch=1), inbox, timeout=5)
    await link.send("", consumer.address, b"first", timeout=5)
    first = await inbox.next()
    network.pause(link)
    assert link.post("", consumer.address, b"posted")
    async with asyncio.TaskGroup() as group:
        group.create_task(link.send("", consumer.address, b"sent", timeout=5, mandatory=True))
        pinging = group.create_task(link.ping(timeout=5))
        await asyncio.sleep(0)
        first.ack()
        assert not pinging.done()
        network.resume(link)
    posted = await inbox.next()
    posted.ack()
    assert [posted.body, *await inbox.bodies(1)] == [b"posted", b"sent"]


async def test_user_id(network: MemoryNetwork) -> None:
    """The network vouches for the user of a transport, and for nobody where none was given."""
    link, inbox = await connected(network, user="checkout"), Inbox()
    anonymous = await connected(network)
    await link.consume(TOPOLOGY.requests("one"), inbox, timeout=5)
    await link.send(TOPOLOGY.rpc, "one", b"x", timeout=5)
    await anonymous.send(TOPOLOGY.rpc, "one", b"x", timeout=5)
    assert [(await inbox.next()).user_id for _ in range(2)] == ["checkout", None]


async def test_history_names_the_instance(network: MemoryNetwork) -> None:
    """The history of a failure says which instance it happened on."""
    link, inbox = await connected(network, instance="email-1"), Inbox()
    queue = events(TOPOLOGY, "todo.*")
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=5)
    await link.send(TOPOLOGY.events, "todo.created", b"x", timeout=5)
    await (await inbox.next()).reject("r" * 10_000)
    (letter,) = await link.dead_letters(queue.name, limit=5, timeout=5)
    assert letter.history[0]["instance"] == "email-1"
    assert len(letter.reason) == 2_000


async def test_exchange_of_another_kind(network: MemoryNetwork) -> None:
    """Connecting fails at once where the topology does not fit what is there."""
    network.broker.declare_exchange(TOPOLOGY.rpc, ExchangeKind.FANOUT)
    error = await outcome(MemoryTransport(network, TOPOLOGY).connect(timeout=5))
    assert isinstance(error, TopologyConflict)
    assert error.name == TOPOLOGY.rpc
    assert network.links == 0


async def test_exchange_that_is_not_there(network: MemoryNetwork) -> None:
    """Consuming from an exchange of another namespace says so, and leaves no queue behind."""
    link = await connected(network)
    error = await outcome(link.consume(QueueSpec(name="q", exchange="other.rpc", keys=("k",)), Inbox(), timeout=5))
    assert isinstance(error, ConfigurationError)
    assert network.broker.queue("q") is None


async def test_conflict_while_away(network: MemoryNetwork, clock: HandClock) -> None:
    """M23 (aio-pika#565): a queue that was made anew with other arguments while the link was down is told and tried again in
    seconds, not in a hot loop, and holds up nothing else; when it fits again the consumer is back."""
    link, other, inbox = await connected(network), await connected(network), Inbox()
    queue, changed = events(TOPOLOGY, "todo.*", max_attempts=5), events(TOPOLOGY, "todo.*", max_attempts=6)
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=5)
    await link.consume(TOPOLOGY.requests("one"), inbox, timeout=5)
    seen = Events(link)
    network.partition(link)
    network.delete_queue(queue.name)
    theirs = await other.consume(changed, Inbox(), timeout=5)
    network.heal()
    await clock.advance(10)
    await seen.until_epoch(2)
    troubles = [event for event in seen.seen if event.consumer == queue.name]
    assert troubles
    assert "max_attempts" in troubles[0].reason
    await clock.advance(300)
    assert len([event for event in seen.seen if event.consumer]) < 60
    await other.send(TOPOLOGY.rpc, "one", b"call", timeout=5, mandatory=True)
    assert await inbox.bodies(1) == [b"call"]
    await theirs.aclose()
    network.delete_queue(queue.name)
    await clock.advance(60)
    await other.send(TOPOLOGY.events, "todo.created", b"event", timeout=5, mandatory=True)
    assert await inbox.bodies(1) == [b"event"]


async def test_thousands(network: MemoryNetwork) -> None:
    """Twenty thousand calls and answers between two transports arrive complete and in order."""
    caller, callee, answers = await connected(network), await connected(network), Inbox()
    consumer = await caller.consume(QueueSpec(name=None), answers, timeout=5)
    await callee.consume(
        TOPOLOGY.requests("one"), lambda delivery: void(callee.post("", consumer.address, delivery.body)), timeout=5
    )
    for number in range(20_000):
        assert caller.post(TOPOLOGY.rpc, "one", b"%d" % number)
        if number % 1000 == 0:
            await asyncio.sleep(0)
    assert await answers.bodies(20_000) == [b"%d" % number for number in range(20_000)]


def void(answer: bool) -> None:
    assert answer


async def test_down(network: MemoryNetwork) -> None:
    """With the network down a first connect ends in its time and says what was tried."""
    network.go_down()
    error = await outcome(MemoryTransport(network, TOPOLOGY).connect(timeout=0.05))
    assert isinstance(error, ConnectionLost)
    assert "nobody listens" in str(error)
