"""What closing a transport does, on every kind of broker."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import TransportClosed
from fabric.transports.base import LinkState
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Events, Inbox, events, outcome

TIMEOUT = 10.0


async def test_closed(backend: Backend) -> None:
    """After aclose everything that would use the link raises TransportClosed at once."""
    topology, link = backend.topology, await backend.transport()
    consumer = await link.consume(topology.requests("one"), Inbox(), timeout=TIMEOUT)
    await link.aclose()
    assert link.state is LinkState.CLOSED
    for work in (
        link.connect(timeout=TIMEOUT),
        link.send(topology.rpc, "one", b"x", timeout=TIMEOUT),
        link.consume(topology.requests("two"), Inbox(), timeout=TIMEOUT),
        link.ping(timeout=TIMEOUT),
        link.dead_letters("q", limit=1, timeout=TIMEOUT),
        link.replay_dead_letter("q", "i", timeout=TIMEOUT),
        link.discard_dead_letter("q", "i", timeout=TIMEOUT),
        consumer.bind("k"),
        consumer.unbind("k"),
    ):
        assert isinstance(await outcome(work), TransportClosed)
    with pytest.raises(TransportClosed):
        link.post(topology.rpc, "one", b"x")
    await consumer.aclose()


async def test_closing_again(backend: Backend) -> None:
    """Closing twice, at once or later, or without ever having connected, does no harm and is told once."""
    link, fresh = await backend.transport(), await backend.transport(connect=False)
    seen = Events(link)
    await asyncio.gather(link.aclose(), link.aclose())
    await link.aclose()
    await fresh.aclose()
    assert [event.state for event in seen.seen] == [LinkState.CLOSED]
    assert isinstance(await outcome(fresh.connect(timeout=TIMEOUT)), TransportClosed)


async def test_posted_before_closing(backend: Backend) -> None:
    """What was posted before aclose still goes out."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox = Inbox()
    await other.consume(topology.requests("one"), inbox, timeout=TIMEOUT)
    for number in range(100):
        assert link.post(topology.rpc, "one", b"%d" % number)
    await link.aclose()
    assert await inbox.bodies(100) == [b"%d" % number for number in range(100)]


async def test_acknowledged_before_closing(backend: Backend) -> None:
    """What was acknowledged before aclose does not come again; what was not, does."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, rest = Inbox(), Inbox(ack=True)
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    for body in (b"done", b"open"):
        await other.send(topology.events, "todo.created", body, timeout=TIMEOUT, persistent=True)
    done, left = await inbox.next(), await inbox.next()
    done.ack()
    await link.aclose()
    left.ack()
    await left.retry("too late")
    await other.consume(events(topology, "todo.*"), rest, timeout=TIMEOUT)
    assert await rest.bodies(1) == [b"open"]
    await other.send(topology.events, "todo.created", b"end", timeout=TIMEOUT, persistent=True)
    assert await rest.bodies(1) == [b"end"]


@pytest.mark.needs(Ability.UNREACHABLE)
async def test_closing_while_waiting(backend: Backend) -> None:
    """What waits for the link when it is closed ends with TransportClosed at once, not with its own limit."""
    topology, link = backend.topology, await backend.transport()
    seen = Events(link)
    await backend.go_down()
    await seen.until_state(LinkState.RECONNECTING)
    waiting = [
        asyncio.ensure_future(outcome(work))
        for work in (
            link.send(topology.rpc, "one", b"x", timeout=600),
            link.consume(topology.requests("one"), Inbox(), timeout=600),
            link.ping(timeout=600),
        )
    ]
    await asyncio.sleep(0)
    await link.aclose()
    async with asyncio.timeout(TIMEOUT):
        assert [type(error) for error in await asyncio.gather(*waiting)] == [TransportClosed] * 3
    await backend.come_up()


@pytest.mark.needs(Ability.CUT)
async def test_closing_while_reconnecting(backend: Backend) -> None:
    """Closing ends a reconnect, and no task of the transport is left."""
    link = await backend.transport()
    seen = Events(link)
    before = asyncio.all_tasks()
    await backend.cut(link)
    await seen.until_state(LinkState.RECONNECTING)
    await link.aclose()
    assert link.state is LinkState.CLOSED
    left = {task for task in asyncio.all_tasks() - before if "transport" in task.get_name()}
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*left, return_exceptions=True)
    assert [event.state for event in seen.seen] == [LinkState.RECONNECTING, LinkState.CLOSED]
