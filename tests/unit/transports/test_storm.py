"""Faults at random, many at once: whatever happened, all is well again when they end."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from fabric.errors import TransportError
from fabric.transports.base import LinkState, QueueSpec, Transport
from tests.contract.backends import EmbeddedBackend, MemoryBackend
from tests.contract.observed import Inbox, events, until


async def storm(backend: MemoryBackend, chance: random.Random, links: list[Transport]) -> None:
    """A hundred faults with a few turns of the loop between them, and their end."""
    for _ in range(100):
        link = chance.choice(links)
        match chance.randrange(9):
            case 0 | 1 | 2:
                await backend.cut(link)
            case 3:
                await backend.pause(link)
            case 4 | 5:
                await backend.resume(link)
            case 6:
                await backend.restart()
            case 7:
                await backend.block()
            case 8:
                await backend.unblock()
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            await asyncio.sleep(0.02)
    await backend.unblock()
    for link in links:
        await backend.resume(link)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["memory", "embedded"])
async def test_storm(kind: str, seed: int, socket_path: Path) -> None:
    """M1, M22: after a hundred faults under load every link is back with all its consumers, every event that was confirmed was
    delivered at least once, nothing hangs, and in the end the broker holds nothing."""
    chance = random.Random(seed)
    async with MemoryBackend() if kind == "memory" else EmbeddedBackend(socket_path) as backend:
        topology = backend.topology
        links = [await backend.transport() for _ in range(4)]
        boxes, todo, confirmed, delivered = [Inbox() for _ in links], Inbox(), set[bytes](), set[bytes]()
        queue = events(topology, "todo.*", max_attempts=1_000, retry_delays=(0.001,))
        consumers = []
        for number, link in enumerate(links):
            consumers.append(await link.consume(topology.requests(f"i{number}"), boxes[number], timeout=5))
            await link.consume(queue, todo, timeout=5)
        over = asyncio.Event()

        async def publish(number: int) -> None:
            count = 0
            while not over.is_set():
                body = b"%d-%d" % (number, count)
                count += 1
                try:
                    await links[number].send(topology.events, "todo.x", body, timeout=0.5, mandatory=True)
                    confirmed.add(body)
                except TransportError:
                    pass
                await asyncio.sleep(0)

        async def work() -> None:
            while True:
                delivery = await todo.next()
                if chance.random() < 0.2:
                    await delivery.retry("by chance")
                else:
                    delivered.add(delivery.body)
                    delivery.ack()

        async def rebind() -> None:
            count = 0
            while not over.is_set():
                count += 1
                try:
                    await consumers[0].bind(f"k{count % 3}")
                    await consumers[0].unbind(f"k{(count + 1) % 3}")
                    extra = await links[1].consume(QueueSpec(name=None), Inbox(), timeout=0.2)
                    await extra.aclose()
                except TransportError:
                    pass
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            worker = group.create_task(work())
            for number in range(len(links)):
                group.create_task(publish(number))
            group.create_task(rebind())
            await storm(backend, chance, links)
            over.set()

            async def calm() -> bool:
                return all(link.state is LinkState.READY for link in links) and confirmed <= delivered

            await until(calm)
            for number, box in enumerate(boxes):
                await links[-1].send(topology.rpc, f"i{number}", b"end", timeout=5, mandatory=True)
                assert await box.bodies(1) == [b"end"]
            worker.cancel()
        for link in links:
            await link.aclose()

        await backend.delete_queue(queue.name or "")

        async def nothing_left() -> bool:
            return backend.network.links == 0 and backend.network.broker.alarm.held == 0

        await until(nothing_left)
        assert len(confirmed) > 50
        assert list(backend.network.broker._queues) == []
