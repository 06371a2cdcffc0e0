"""What must get through whatever else is on its way: votes, heartbeats, and the question whether somebody is there."""

from __future__ import annotations

import asyncio

from fabric import Health, Priority, Service, rpc
from fabric.transports.base import Delivery
from fabric.transports.topology import EVERY_VOTE
from tests.integration.conftest import Fleet
from tests.puppet import eventually


class Mill(Service):
    """Has one method with all its places taken, and one that is called as fast as it goes."""

    name = "mill"

    def __init__(self) -> None:
        self.checks = 0

    async def check_health(self) -> Health:
        self.checks += 1
        return Health.ok()

    @rpc(concurrency=5, queue=20_000)
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @rpc()
    async def turn(self) -> int:
        return 1


async def test_votes_and_heartbeats_pass_a_flood(fleet: Fleet) -> None:
    """M12's neighbour (celery#8025): with every place of a method taken, 5,000 requests waiting in the instance and critical ones
    coming in as fast as they are answered, its health is checked, its votes arrive, and its heartbeats are heard."""
    mill = Mill()
    served = await fleet.start(mill)
    hub = await fleet.bench.hub()
    await hub.find("mill")
    votes: list[Delivery] = []
    link = await fleet.backend.transport()
    await link.consume(fleet.backend.topology.control_lane(EVERY_VOTE), votes.append, timeout=10)
    waiting = [asyncio.create_task(hub.call("mill", "hang", priority=Priority.LOW, timeout=60.0)) for _ in range(5000)]
    await eventually(lambda: served._served is not None and served._served.load == 5000)
    answered = 0

    async def flood() -> None:
        nonlocal answered
        while True:
            answered += await hub.call("mill", "turn", returns=int, priority=Priority.CRITICAL, timeout=60.0)

    flooding = [asyncio.create_task(flood()) for _ in range(50)]
    known = hub.registry.get(served.instance)
    assert known is not None
    votes.clear()
    heard, checks = known.instance.sequence, mill.checks
    await eventually(lambda: len(votes) >= 3)
    await eventually(lambda: known.instance.sequence >= heard + 3)
    await eventually(lambda: mill.checks >= checks + 3)  # the first of the votes may tell of a check from before
    assert known.instance.load > 4000, "and they tell of the flood"
    assert answered > 0
    assert not known.suspect
    for task in (*flooding, *waiting):
        task.cancel()
    await asyncio.gather(*flooding, *waiting, return_exceptions=True)
    await eventually(lambda: served._served is not None and served._served.load == 0)
