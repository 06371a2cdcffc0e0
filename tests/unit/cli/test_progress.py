"""Following a run: broadcasts first, questions where none came, nothing twice and nothing out of order."""

from __future__ import annotations

import asyncio

from fabric import Service, rpc
from fabric.cli.progress import FleetWatch
from fabric.coordination.status import FleetStatus, RunState
from fabric.testing import Bench


def status(sequence: int, *, epoch: int = 1, state: RunState = RunState.STARTING) -> FleetStatus:
    return FleetStatus(fleet="shop", run="r", epoch=epoch, sequence=sequence, state=state)


class Coordinator(Service):
    """Answers with what the test sets, and broadcasts when told."""

    name = "coordinator"
    now = status(1)

    @rpc(idempotent=True)
    async def status(self) -> FleetStatus:
        return self.now


async def test_broadcasts_are_followed() -> None:
    """A status that is broadcast arrives without anybody asking."""
    async with Bench() as bench:
        coordinator = Coordinator()
        await bench.start(coordinator)
        async with FleetWatch(await bench.hub("cli"), every=1000.0) as watch, asyncio.timeout(20):
            coordinator.hub.broadcast("fleet.progress", status(5))
            coordinator.hub.broadcast("other", status(6))
            coordinator.hub.broadcast("fleet.progress", {"not": "a status"})
            coordinator.hub.broadcast("fleet.progress", status(7))
            assert [(await watch.next()).sequence for _ in range(2)] == [5, 7]
            assert "does not understand" in watch.trouble


async def test_where_no_broadcast_comes_the_coordinator_is_asked() -> None:
    """Broadcasts are best effort: what one lost is asked for, and an unreachable coordinator is remembered as trouble."""
    async with Bench() as bench, FleetWatch(await bench.hub("cli"), every=0.01) as watch, asyncio.timeout(20):
        while not watch.trouble:
            await asyncio.sleep(0.01)
        assert "no live instance" in watch.trouble
        await bench.start(Coordinator())
        assert (await watch.next()).sequence == 1


async def test_what_is_old_is_dropped() -> None:
    """A status that was overtaken is not shown; one of a new coordinator is, whatever its sequence."""
    async with Bench() as bench, FleetWatch(await bench.hub("cli"), every=1000.0) as watch, asyncio.timeout(20):
        for told in (status(5), status(4), status(5), status(6), status(1, epoch=2), status(9)):
            watch.put(told)
        assert [(found.epoch, found.sequence) for found in [await watch.next() for _ in range(3)]] == [(1, 5), (1, 6), (2, 1)]
