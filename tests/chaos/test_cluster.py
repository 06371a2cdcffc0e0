"""A RabbitMQ cluster of three that loses nodes or its network, while events go through it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable
from functools import partial

import pytest

from tests.brokers.cluster import Cluster
from tests.event_load import event_load, tell

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(900)]

TOTAL = 100_000
PUBLISHER = 2
"""The node that the publisher is linked to at first."""


async def test_a_node_is_killed_and_comes_back(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 100,000 confirmed events none is lost while the node that leads their queue is killed and comes back; those that come
    twice are counted, and publishing and consuming go on."""
    async with event_load(cluster, f"test-{uuid.uuid4().hex[:12]}") as load, load.flowing():
        await load.confirms(TOTAL // 3)
        leader = await asyncio.to_thread(cluster.leader_of, load.queue, asked=cluster.nodes[0])
        await asyncio.to_thread(leader.kill)
        await load.confirms(2 * TOTAL // 3)
        await asyncio.to_thread(leader.start)
        await load.goes_on(1000, everybody=True)
        await load.confirms(TOTAL)
    tell(capsys, cluster, "the leader killed", load)
    assert len(load.tally.confirmed) >= TOTAL
    assert load.tally.lost == 0


@pytest.mark.parametrize("who", ["the leader", "the publisher's node"])
async def test_events_survive_a_partition(cluster: Cluster, capsys: pytest.CaptureFixture[str], who: str) -> None:
    """While one node is cut off from the others and not from its clients, whoever is linked to another one goes on, no publish
    hangs and no confirmed event is lost; when the network heals all goes on, also on that node."""
    async with event_load(cluster, f"test-{uuid.uuid4().hex[:12]}") as load, load.flowing():
        await load.confirms(1000)
        node = cluster.nodes[PUBLISHER]
        if who == "the leader":
            node = await asyncio.to_thread(cluster.leader_of, load.queue, asked=cluster.nodes[0])
        await asyncio.to_thread(cluster.isolate, node)
        try:
            await (load.goes_on_or_says_so(2000) if node is cluster.nodes[PUBLISHER] else load.goes_on(2000))
        finally:
            await asyncio.to_thread(cluster.rejoin, node)
        await load.goes_on(2000, everybody=True)
    tell(capsys, cluster, f"{who} cut off", load)
    assert load.tally.lost == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_one_harm_after_the_other(cluster: Cluster, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    """Over a row of random harms, never more than one node at a time, no confirmed event is lost and all goes on in between."""
    chance = random.Random(seed)
    done = []
    async with event_load(cluster, f"test-{uuid.uuid4().hex[:12]}") as load, load.flowing():
        await load.confirms(1000)
        for _ in range(5):
            node = chance.choice(cluster.nodes)
            harm = chance.choice(("killed", "shut down", "cut off", "paused"))
            done.append(f"{cluster.nodes.index(node) + 1} {harm}")
            harms: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
                "killed": (node.kill, node.start),
                "shut down": (node.shut_down, node.start),
                "cut off": (partial(cluster.isolate, node), partial(cluster.rejoin, node)),
                "paused": (node.pause, node.resume),
            }
            begin, end = harms[harm]
            await asyncio.to_thread(begin)
            try:
                await (load.goes_on_or_says_so(3000) if harm == "cut off" else load.goes_on(3000))
            finally:
                await asyncio.to_thread(end)
            await load.goes_on(3000, everybody=True)
    tell(capsys, cluster, ", ".join(done), load)
    assert load.tally.lost == 0
