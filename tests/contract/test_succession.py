"""A group of events that becomes ordered, or unordered again, on every kind of broker."""

from __future__ import annotations

import asyncio

import pytest

from fabric.transports.base import QueueSpec
from fabric.transports.topology import Topology
from tests.contract.backends import Backend
from tests.contract.observed import Inbox

TIMEOUT = 10.0


def group(topology: Topology, *, ordered: bool) -> QueueSpec:
    return topology.event_group("mailer", ("todo.*",), prefetch=10, max_attempts=3, retry_delays=(0.3,), ordered=ordered)


@pytest.mark.parametrize("ordered", [True, False], ids=["becomes ordered", "becomes unordered"])
async def test_what_waited_moves_over(backend: Backend, ordered: bool) -> None:
    """What the former queue held, also what was not settled and what was to be tried again, comes to the new one; what is
    published from then on comes once."""
    topology = backend.topology
    sender, old = await backend.transport(), await backend.transport()
    inbox = Inbox()
    await old.consume(group(topology, ordered=not ordered), inbox, timeout=TIMEOUT)
    for number in range(4):
        await sender.send(
            topology.events, "todo.made", b"%d" % number, timeout=TIMEOUT, persistent=True, message_id=f"id-{number}"
        )
    await (await inbox.next()).retry("not now")
    await inbox.next()
    await old.aclose()
    await sender.send(topology.events, "todo.made", b"4", timeout=TIMEOUT, persistent=True)

    new, inbox = await backend.transport(), Inbox()
    await new.consume(group(topology, ordered=ordered), inbox, timeout=TIMEOUT)
    ids: dict[bytes, str | None] = {}
    async with asyncio.timeout(30):
        while len(ids) < 5:
            (delivery := await inbox.next()).ack()
            ids[bytes(delivery.body)] = delivery.message_id
    assert ids == {b"0": "id-0", b"1": "id-1", b"2": "id-2", b"3": "id-3", b"4": None}
    await sender.send(topology.events, "todo.made", b"5", timeout=TIMEOUT, persistent=True, mandatory=True)
    assert (await inbox.next()).body == b"5"


async def test_while_the_version_before_runs(backend: Backend) -> None:
    """Both queues get every event as long as the former one is consumed; what it gets back when its last consumer goes comes to
    the new one."""
    topology = backend.topology
    sender, old, new = await backend.transport(), await backend.transport(), await backend.transport()
    before, after = Inbox(), Inbox()
    await old.consume(group(topology, ordered=False), before, timeout=TIMEOUT)
    await new.consume(group(topology, ordered=True), after, timeout=TIMEOUT)
    await sender.send(topology.events, "todo.made", b"both", timeout=TIMEOUT, persistent=True)
    (await after.next()).ack()
    assert (await before.next()).body == b"both"
    await old.aclose()
    async with asyncio.timeout(30):
        again = await after.next()
    assert again.body == b"both"
    again.ack()
