"""What is refused, and by whom, on every kind of broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fabric.errors import ConnectionLost, PayloadTooLarge, TopologyConflict
from fabric.transports.base import LinkState, QueueSpec
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Inbox, events, letters

TIMEOUT = 10.0


async def test_max_body(backend: Backend) -> None:
    """A body over max_body is refused here with both sizes, and one of just that size arrives."""
    topology, link = backend.topology, await backend.transport(max_body=100_000)
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    assert link.max_body == 100_000
    for over in (100_001, 1_000_000):
        with pytest.raises(PayloadTooLarge) as caught:
            await link.send(topology.rpc, "one", bytes(over), timeout=TIMEOUT)
        assert (caught.value.size, caught.value.limit) == (over, 100_000)
        with pytest.raises(PayloadTooLarge):
            link.post(topology.rpc, "one", bytes(over))
    await link.send(topology.rpc, "one", bytes(100_000), timeout=TIMEOUT, mandatory=True)
    assert (await inbox.next()).body == bytes(100_000)
    assert link.epoch == 1


async def test_large_bodies(backend: Backend) -> None:
    """Bodies of the largest size that is allowed by default pass, several at once, between small ones."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox = Inbox()
    await other.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    sizes = [link.max_body, 1, link.max_body, 2]
    await asyncio.gather(*(link.send(topology.rpc, "one", bytes(size), timeout=TIMEOUT * 3) for size in sizes))
    assert sorted(len(body) for body in await inbox.bodies(4)) == sorted(sizes)
    assert (link.epoch, other.epoch) == (1, 1)


async def test_long_key(backend: Backend) -> None:
    """A key has at most 255 bytes; a longer one is a mistake of the caller's and harms nothing."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("k" * 255), inbox, timeout=TIMEOUT)
    for key in ("k" * 256, "ü" * 128):
        with pytest.raises(ValueError, match="255"):
            await link.send(topology.rpc, key, b"x", timeout=TIMEOUT)
        with pytest.raises(ValueError, match="255"):
            link.post(topology.rpc, key, b"x")
    await link.send(topology.rpc, "k" * 255, b"longest", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(1) == [b"longest"]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "headers",
    [
        {"x-death": "mine"},
        {"X-Anything": 1},
        {"object": object()},
        {"set": {1}},
        {"large": 2**63},
        {"deep": deep(50)},
        {"map": {1: "a"}},
        {"long": "x" * 70_000},
        {"n" * 300: 1},
        {1: "a"},
    ],
    ids=lambda headers: str(next(iter(headers)))[:10],
)
async def test_headers_that_can_not_be(backend: Backend, headers: dict[Any, Any]) -> None:
    """Headers that some broker could not carry are refused here on all of them."""
    topology, link = backend.topology, await backend.transport()
    with pytest.raises(ValueError):
        await link.send(topology.rpc, "one", b"x", timeout=TIMEOUT, headers=headers)
    with pytest.raises(ValueError):
        link.post(topology.rpc, "one", b"x", headers=headers)
    await link.ping(timeout=TIMEOUT)
    assert (link.state, link.epoch) == (LinkState.READY, 1)


async def test_headers_are_copied(backend: Backend) -> None:
    """What the sender does to its headers after sending changes nothing for the receiver."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    headers = {"list": [1]}
    assert link.post(topology.rpc, "one", b"x", headers=headers)
    headers["list"].append(2)
    assert dict((await inbox.next()).headers) == {"list": [1]}


@pytest.mark.needs(Ability.FOREIGN)
@pytest.mark.parametrize(
    "headers",
    [
        {"x-delivery-count": "many", "x-death": "never"},
        {"x-delivery-count": -(2**62), "x-death": [{"count": "x"}, 5, None]},
        {"x-fabric-attempts": "many", "x-fabric-history": 7, "x-fabric-key": 5, "x-fabric-exchange": [1]},
        {"x-fabric-attempts": -9, "x-fabric-history": [1, None, {"at": "x"}], "x-fabric-reason": {"a": 1}},
        {"x-fabric-attempts": True, "x-fabric-history": [0, 255], "x-fabric-message-id": 12, "x-fabric-died-at": "x"},
        {"mine": deep(20)},
    ],
)
async def test_hostile_headers(backend: Backend, headers: dict[str, Any]) -> None:
    """M31 (dramatiq#848): whatever another program puts into headers, the event is delivered, retried and given up as any other,
    and what follows arrives."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    queue = events(topology, "todo.*")
    assert queue.name is not None
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await backend.publish_foreign(topology.events, "todo.created", b"foreign", headers=headers)
    first = await inbox.next()
    assert (first.body, first.attempt) == (b"foreign", 1)
    assert not any(name.startswith("x-") for name in first.headers)
    await first.retry("odd")
    second = await inbox.next()
    assert (second.body, second.attempt, second.key) == (b"foreign", 2, "todo.created")
    await second.reject("odd")
    await link.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await inbox.bodies(1) == [b"end"]
    (letter,) = await letters(link, queue.name, 1)
    assert (letter.body, letter.attempts, letter.reason) == (b"foreign", 2, "odd")
    assert link.epoch == 1


async def test_repeated_message_id(backend: Backend) -> None:
    """M27 (aio-pika#689): a thousand messages with one message_id are all confirmed, and all arrive with it."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox()
    await link.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    await asyncio.gather(
        *(link.send(topology.rpc, "one", b"x", timeout=TIMEOUT, message_id="same", mandatory=True) for _ in range(1000))
    )
    assert {(await inbox.next()).message_id for _ in range(1000)} == {"same"}
    assert not inbox.waiting


async def test_conflict(backend: Backend) -> None:
    """M23 (aio-pika#565, celery#2635): consuming from a durable queue with other arguments fails at once and clearly, again and
    again, and the link with its other consumers goes on."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, own = Inbox(ack=True), Inbox()
    queue = events(topology, "todo.*", max_attempts=5)
    await link.consume(queue, inbox, timeout=TIMEOUT)
    await other.consume(topology.requests("one"), own, timeout=TIMEOUT)
    for _ in range(3):
        with pytest.raises(TopologyConflict) as caught:
            await other.consume(events(topology, "todo.*", max_attempts=6), Inbox(), timeout=TIMEOUT)
        assert caught.value.name == queue.name
        assert caught.value.reason
    await other.send(topology.events, "todo.created", b"event", timeout=TIMEOUT, persistent=True)
    await other.send(topology.rpc, "one", b"call", timeout=TIMEOUT, mandatory=True)
    assert await inbox.bodies(1) == [b"event"]
    assert await own.bodies(1) == [b"call"]
    assert (link.epoch, other.epoch) == (1, 1)
    # The other properties belong to the consumer.
    await other.consume(events(topology, "todo.*", prefetch=3, retry_delays=(7.0,)), inbox, timeout=TIMEOUT)


async def test_exclusive_elsewhere(backend: Backend) -> None:
    """A durable queue can't be consumed as one's own, nor one that another link holds. The answer may take its time, because
    that could be our own link of before."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    name = f"{topology.namespace}.mine"
    await link.consume(QueueSpec(name=name), Inbox(), timeout=TIMEOUT)
    durable = events(topology, "todo.*")
    await link.consume(durable, Inbox(), timeout=TIMEOUT)
    for taken in (name, durable.name):
        with pytest.raises((TopologyConflict, ConnectionLost)):
            await other.consume(QueueSpec(name=taken), Inbox(), timeout=1)
    await other.ping(timeout=TIMEOUT)
    assert other.epoch == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "q", "durable": True},
        {"name": None, "durable": True, "ack": True},
        {"name": "q", "ack": True, "prefetch": 0},
        {"name": "q", "ack": True, "prefetch": 65_536},
        {"name": "q", "max_attempts": 0},
    ],
)
def test_queue_specs_that_can_not_be(arguments: dict[str, Any]) -> None:
    """A queue that no broker could hold is refused when it is described."""
    with pytest.raises(ValueError):
        QueueSpec(**arguments)
