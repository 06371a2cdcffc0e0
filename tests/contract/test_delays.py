"""Messages that are to arrive later, on every kind of broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fabric.transports.delays import MOST_DELAY
from fabric.wire.message import Priority
from tests.contract.backends import Ability, Backend
from tests.contract.observed import Events, Inbox, events

TIMEOUT = 10.0


async def test_not_before_its_time(backend: Backend) -> None:
    """A delayed event arrives after its delay, not before, and as it was published; what is sent meanwhile overtakes it."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox(ack=True)
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    now = asyncio.get_running_loop().time
    began = now()
    await link.send(
        topology.events,
        "todo.due",
        b"later",
        timeout=TIMEOUT,
        delay=0.6,
        message_id="m",
        headers={"trace": "t"},
        content_type="text/plain",
        priority=Priority.NORMAL,
        persistent=True,
    )
    await link.send(topology.events, "todo.created", b"now", timeout=TIMEOUT, persistent=True)
    first, second = await inbox.next(), await inbox.next()
    assert now() - began >= 0.6
    assert first.body == b"now"
    assert (second.body, second.exchange, second.key) == (b"later", topology.events, "todo.due")
    assert (second.message_id, dict(second.headers), second.content_type) == ("m", {"trace": "t"}, "text/plain")
    assert (second.attempt, second.redelivered) == (1, False)


async def test_delays_of_several_lengths(backend: Backend) -> None:
    """Each waits its own time: a longer delay published first does not hold up a shorter one."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox(ack=True)
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    for delay in (MOST_DELAY, 60.0, 0.1):
        await link.send(topology.events, "todo.due", str(delay).encode(), timeout=TIMEOUT, delay=delay)
    assert await inbox.bodies(1) == [b"0.1"]


async def test_what_nobody_takes_holds_up_nothing(backend: Backend) -> None:
    """A delayed event that has no subscriber when it is due is dropped like any other, however many of them there are."""
    topology, link = backend.topology, await backend.transport()
    inbox = Inbox(ack=True)
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    lost = (link.send(topology.events, "nobody.cares", b"x", timeout=TIMEOUT, delay=0.2) for _ in range(100))
    await asyncio.gather(*lost)
    await link.send(topology.events, "todo.due", b"mine", timeout=TIMEOUT, delay=0.2)
    assert await inbox.bodies(1) == [b"mine"]


@pytest.mark.needs(Ability.CUT)
async def test_survives_a_cut(backend: Backend) -> None:
    """It is the broker that waits: the sender's link may break or the sender be gone meanwhile."""
    topology, sender, reader = backend.topology, await backend.transport(), await backend.transport()
    inbox, seen = Inbox(ack=True), Events(reader)
    await reader.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await sender.send(topology.events, "todo.due", b"later", timeout=TIMEOUT, delay=1.0, persistent=True)
    await backend.cut(sender)
    await sender.aclose()
    await backend.cut(reader)
    await seen.until_epoch(2)
    assert await inbox.bodies(1) == [b"later"]


@pytest.mark.needs(Ability.RESTART)
async def test_survives_a_restart(backend: Backend) -> None:
    """An orderly restart of the broker keeps what is delayed, and delays work on the new link too."""
    topology, link = backend.topology, await backend.transport()
    inbox, seen = Inbox(ack=True), Events(link)
    await link.consume(events(topology, "todo.*"), inbox, timeout=TIMEOUT)
    await link.send(topology.events, "todo.due", b"before", timeout=TIMEOUT, delay=2.0, persistent=True)
    await backend.restart()
    await seen.until_epoch(2)
    assert await inbox.bodies(1) == [b"before"]
    await link.send(topology.events, "todo.due", b"after", timeout=TIMEOUT, delay=0.1, persistent=True)
    assert await inbox.bodies(1) == [b"after"]


async def test_a_bad_delay_is_refused(backend: Backend) -> None:
    """Not above 0, over seven days, no number, together with expires or mandatory, or not an event: nothing is sent."""
    topology, link = backend.topology, await backend.transport()
    bad: list[Any] = [0, -1, MOST_DELAY + 1, float("nan"), float("inf"), "1", True]
    for delay in bad:
        with pytest.raises(ValueError, match="a delay is above 0"):
            await link.send(topology.events, "todo.due", b"x", timeout=TIMEOUT, delay=delay)
    with pytest.raises(ValueError, match="neither expire"):
        await link.send(topology.events, "todo.due", b"x", timeout=TIMEOUT, delay=1.0, expires=2)
    with pytest.raises(ValueError, match="neither expire"):
        await link.send(topology.events, "todo.due", b"x", timeout=TIMEOUT, delay=1, mandatory=True)
    with pytest.raises(ValueError, match="only events"):
        await link.send(topology.rpc, "todo.due", b"x", timeout=TIMEOUT, delay=1)
