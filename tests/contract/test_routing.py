"""Where a message goes, on every kind of broker."""

from __future__ import annotations

import pytest

from fabric.errors import NoRoute
from fabric.transports.base import QueueSpec
from fabric.wire.message import Priority
from tests.contract.backends import Backend
from tests.contract.observed import Inbox, until

TIMEOUT = 10.0


async def test_direct(backend: Backend) -> None:
    """A direct exchange gives a message to the queue bound with just its key."""
    topology, link = backend.topology, await backend.transport()
    one, two = Inbox(), Inbox()
    await link.consume(topology.requests("one"), one, timeout=TIMEOUT)
    await link.consume(topology.requests("two"), two, timeout=TIMEOUT)
    await link.send(topology.rpc, "one", b"1", timeout=TIMEOUT)
    await link.send(topology.rpc, "two", b"2", timeout=TIMEOUT)
    assert await one.bodies(1) == [b"1"]
    assert await two.bodies(1) == [b"2"]
    assert not one.waiting


async def test_fanout(backend: Backend) -> None:
    """A fanout exchange gives a message to every queue, whatever its key."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inboxes = [Inbox() for _ in range(3)]
    for inbox, transport in zip(inboxes, (link, other, other), strict=True):
        await transport.consume(topology.broadcasts(), inbox, timeout=TIMEOUT)
    await link.send(topology.broadcast, "policy.changed", b"all", timeout=TIMEOUT)
    assert [await inbox.bodies(1) for inbox in inboxes] == [[b"all"]] * 3


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("todo.created", {"todo.created"}),
        ("todo.*", {"todo.created", "todo.done"}),
        ("*", {"todo"}),
        ("#", {"todo", "todo.created", "todo.done", "todo.done.late", "user.created"}),
        ("todo.#", {"todo", "todo.created", "todo.done", "todo.done.late"}),
        ("*.created", {"todo.created", "user.created"}),
        ("#.late", {"todo.done.late"}),
        ("todo.#.late", {"todo.done.late"}),
        ("*.*.*", {"todo.done.late"}),
    ],
)
async def test_topic(backend: Backend, pattern: str, taken: set[str]) -> None:
    """In a topic pattern * is one word and # any number of words, none included."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.control_lane(pattern, "the.end"), inbox, timeout=TIMEOUT)
    for key in ("todo", "todo.created", "todo.done", "todo.done.late", "user.created"):
        await link.send(topology.control, key, key.encode(), timeout=TIMEOUT)
    await link.send(topology.control, "the.end", b"the.end", timeout=TIMEOUT)
    assert {body.decode() for body in await inbox.bodies(len(taken) + 1)} == taken | {"the.end"}
    assert not inbox.waiting


async def test_once_per_queue(backend: Backend) -> None:
    """A queue that several of its bindings match gets a message once."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.control_lane("todo.#", "*.created", "todo.created"), inbox, timeout=TIMEOUT)
    await link.send(topology.control, "todo.created", b"once", timeout=TIMEOUT)
    await link.send(topology.control, "user.created", b"end", timeout=TIMEOUT)
    assert await inbox.bodies(2) == [b"once", b"end"]


async def test_default_exchange(backend: Backend) -> None:
    """A queue that the broker named is reached by that name from any link; two such queues have different names."""
    link, other = await backend.transport(), await backend.transport()
    inbox = Inbox()
    consumer = await link.consume(QueueSpec(name=None), inbox, timeout=TIMEOUT)
    second = await link.consume(QueueSpec(name=None), Inbox(), timeout=TIMEOUT)
    assert consumer.address != second.address
    assert other.post("", consumer.address, b"posted")
    await other.send("", consumer.address, b"sent", timeout=TIMEOUT, mandatory=True)
    assert sorted(await inbox.bodies(2)) == [b"posted", b"sent"]


async def test_mandatory(backend: Backend) -> None:
    """M5 (MassTransit#2229): a mandatory message that no queue takes ends as NoRoute with the place it was meant for."""
    topology, link = backend.topology, await backend.transport()
    for exchange, key in ((topology.rpc, "nobody"), (topology.control, "no.body"), (topology.broadcast, ""), ("", "no-queue")):
        with pytest.raises(NoRoute) as caught:
            await link.send(exchange, key, b"x", timeout=TIMEOUT, mandatory=True)
        assert (caught.value.exchange, caught.value.key) == (exchange, key)


async def test_not_mandatory(backend: Backend) -> None:
    """Without mandatory a message for nobody is dropped and the send succeeds."""
    topology, link = backend.topology, await backend.transport()
    await link.send(topology.rpc, "nobody", b"x", timeout=TIMEOUT)


async def test_first_call_to_nobody(backend: Backend) -> None:
    """M10 (FastStream's reply lock): after one message to a missing queue, a hundred good ones arrive."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    with pytest.raises(NoRoute):
        await link.send("", "missing", b"x", timeout=TIMEOUT, mandatory=True)
    for number in range(100):
        await link.send(topology.rpc, "one", b"%d" % number, timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(100) == [b"%d" % number for number in range(100)]


async def test_bind_and_unbind(backend: Backend) -> None:
    """A consumer gets what is sent with a key from its bind to its unbind; both may be repeated."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    consumer = await link.consume(topology.discoveries("kept"), inbox, timeout=TIMEOUT)
    for _ in range(2):
        await consumer.bind("up.service.todo")
    await link.send(topology.discovery, "up.service.todo", b"bound", timeout=TIMEOUT, mandatory=True)
    for _ in range(2):
        await consumer.unbind("up.service.todo")
    with pytest.raises(NoRoute):
        await link.send(topology.discovery, "up.service.todo", b"unbound", timeout=TIMEOUT, mandatory=True)
    await link.send(topology.discovery, "kept", b"kept", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(2) == [b"bound", b"kept"]


async def test_closed_consumer(backend: Backend) -> None:
    """A closed consumer gets nothing more, and its own queue is gone; closing again does nothing."""
    topology, link = backend.topology, await backend.transport()
    inbox, other = Inbox(), Inbox()
    consumer = await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await link.consume(topology.requests("two"), other, timeout=TIMEOUT)
    await consumer.aclose()
    await consumer.aclose()

    async def gone() -> bool:
        try:
            await link.send(topology.rpc, "one", b"x", timeout=TIMEOUT, mandatory=True)
        except NoRoute:
            return True
        return False

    await until(gone)
    await link.send(topology.rpc, "two", b"end", timeout=TIMEOUT)
    assert await other.bodies(1) == [b"end"]
    assert not inbox.waiting


async def test_what_arrives(backend: Backend) -> None:
    """A delivery carries the body, place, kind, priority, id and headers that it was sent with."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    headers = {
        "none": None,
        "yes": True,
        "n": -5,
        "f": 0.5,
        "s": "ü",
        "b": b"\x00\xff",
        "list": [1, ["a"]],
        "map": {"k": {"l": 1}},
    }
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await link.send(
        topology.rpc,
        "one",
        b"\x00body",
        timeout=TIMEOUT,
        priority=Priority.HIGH,
        content_type="text/plain",
        headers=headers,
        message_id="id-1",
    )
    got = await inbox.next()
    assert (got.body, got.exchange, got.key) == (b"\x00body", topology.rpc, "one")
    assert (got.content_type, got.priority, got.message_id) == ("text/plain", Priority.HIGH, "id-1")
    assert dict(got.headers) == headers
    assert (got.attempt, got.redelivered) == (1, False)


async def test_defaults_arrive(backend: Backend) -> None:
    """What was not given arrives as it is documented, and an empty body is a body."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await link.send(topology.rpc, "one", b"", timeout=TIMEOUT)
    got = await inbox.next()
    assert (got.body, got.content_type, got.priority, got.message_id) == (b"", "application/msgpack", Priority.NORMAL, None)
    assert dict(got.headers) == {}


async def test_what_is_answered_is_told_too(backend: Backend) -> None:
    """M5 (MassTransit#2229): where the confirm of a request may come late, it comes; without a receiver NoRoute comes at once."""
    topology, link, inbox = backend.topology, await backend.transport(), Inbox()
    await link.consume(topology.requests("here"), inbox, timeout=TIMEOUT)
    for number in range(3):
        await link.send(topology.rpc, "here", b"%d" % number, timeout=TIMEOUT, mandatory=True, answered=True)
        with pytest.raises(NoRoute):
            await link.send(topology.rpc, "nowhere", b"lost", timeout=TIMEOUT, mandatory=True, answered=True)
    assert await inbox.bodies(3) == [b"0", b"1", b"2"]
