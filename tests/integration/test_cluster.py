"""A RabbitMQ cluster of three that loses a leader while events go through it; tests/chaos has the longer runs."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.brokers.cluster import Cluster
from tests.event_load import event_load, tell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_events_survive_the_loss_of_their_leader(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """While the node that leads the queue is killed and comes back, no confirmed event is lost, those that come twice are
    counted, and publishing and consuming go on."""
    async with event_load(cluster, f"test-{uuid.uuid4().hex[:12]}") as load, load.flowing():
        await load.confirms(1000)
        leader = await asyncio.to_thread(cluster.leader_of, load.queue, asked=cluster.nodes[0])
        await asyncio.to_thread(leader.kill)
        await load.goes_on(1000)
        await asyncio.to_thread(leader.start)
        await load.goes_on(1000, everybody=True)
    tell(capsys, cluster, "the leader killed", load)
    assert len(load.tally.confirmed) >= 3000
    assert load.tally.lost == 0
