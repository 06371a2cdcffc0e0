"""Three hundred instances of twenty services, each calling some of the others."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fabric import Service, rpc
from fabric.config import Settings
from fabric.routing.registry import Happening
from fabric.testing import Bench
from fabric.transports.base import Delivery, QueueSpec, Receiver, Transport
from fabric.transports.linked_consumer import LinkedConsumer
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology

SECONDS = float(os.environ.get("FABRIC_CHAOS_SECONDS", "600"))
SERVICES = 20
CALLS = (1, 7)
"""Each service calls those that are so many further on."""
HEARTBEAT = 2.0


class Heard:
    """How many messages came in, by the exchange that they came from."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()

    def counting(self, queue: QueueSpec, receiver: Receiver) -> Receiver:
        def receive(delivery: Delivery) -> None:
            self.messages[queue.exchange] += 1
            receiver(delivery)

        return receive


class CountedMemory(MemoryTransport):
    heard: Heard

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> LinkedConsumer:
        return await super().consume(queue, self.heard.counting(queue, receiver), timeout=timeout)


def part(number: int) -> type[Service]:
    """The class of the service with that number."""

    class Part(Service):
        name = f"part-{number}"

        @rpc(idempotent=True)
        async def work(self) -> str:
            return self.hub.instance

    return Part


class Crowd:
    """Hubs of ``SERVICES`` services, ``each`` of every one.

    Attributes:
        happened: what their registries told of since they were last cleared, and how their calls ended.
    """

    def __init__(self, bench: Bench, heard: Heard, each: int) -> None:
        self._bench, self._heard, self._each = bench, heard, each
        self.members: list[Service] = []
        self.happened: Counter[str] = Counter()

    async def start(self) -> None:
        kinds = [part(number) for number in range(SERVICES)]
        for _ in range(self._each):
            made = [kind() for kind in kinds]
            await asyncio.gather(*(self._bench.start(service) for service in made))
            self.members += made
        for number, service in enumerate(self.members):
            await asyncio.gather(*(service.hub.find(f"part-{(number + step) % SERVICES}") for step in CALLS))
            service.hub.registry.watch(lambda event: self.happened.update([str(event.happening)]))

    async def stop(self) -> None:
        for start in range(0, len(self.members), SERVICES):
            leaving = self.members[start : start + SERVICES]
            await asyncio.gather(*(self._bench.stop(service.hub.instance) for service in leaving))

    async def settle(self) -> None:
        """Return when everyone knows whom it calls, and nobody else."""
        known = len(CALLS) * self._each
        async with asyncio.timeout(60):
            while any(len(service.hub.registry) != known for service in self.members):
                await asyncio.sleep(0.1)
        self.happened.clear()

    async def live(self, seconds: float) -> tuple[float, float]:
        """Let each call somebody every few seconds.

        Returns:
            Announcements heard, as a multiple of one for each caller, callee and heartbeat; and the share of a processor that
            one hub took.
        """
        chance = random.Random(28)
        before, cpu, began = self._heard.messages.copy(), time.process_time(), time.monotonic()

        async def one(number: int, service: Service) -> None:
            while True:
                await asyncio.sleep(chance.uniform(0, 10))
                name = f"part-{(number + chance.choice(CALLS)) % SERVICES}"
                answer = await service.hub.call(name, "work")
                self.happened["right" if answer.startswith(f"{name}-") else "wrong"] += 1

        tasks = [asyncio.create_task(one(number, service)) for number, service in enumerate(self.members)]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        took, used = time.monotonic() - began, time.process_time() - cpu
        heard = self._heard.messages["fabric-many.discovery"] - before["fabric-many.discovery"]
        pairs = len(self.members) * len(CALLS) * self._each
        return heard / (pairs * took / HEARTBEAT), used / took / len(self.members)


@asynccontextmanager
async def crowd(each: int, link: Callable[[Heard], Callable[[Settings], Awaitable[Transport]]]) -> AsyncIterator[Crowd]:
    settings = Settings(namespace="fabric-many", heartbeat_interval=HEARTBEAT, drain_timeout=1.0, connect_timeout=60.0)
    heard = Heard()
    async with Bench(settings=settings, transport=link(heard)) as bench:
        made = Crowd(bench, heard, each)
        await made.start()
        await made.settle()
        yield made
        await made.stop()


def check(crowd: Crowd, heard: float, cpu: float) -> None:
    assert not {str(Happening.LOST), str(Happening.LEFT), str(Happening.JOINED), "wrong"} & crowd.happened.keys()
    assert crowd.happened["right"] > 0
    assert 0.5 < heard < 1.5, "one announcement for each caller, callee and heartbeat"
    assert cpu < 0.05


def in_memory(network: MemoryNetwork) -> Callable[[Heard], Callable[[Settings], Awaitable[Transport]]]:
    def link(heard: Heard) -> Callable[[Settings], Awaitable[Transport]]:
        async def make(settings: Settings) -> Transport:
            made = CountedMemory(network, Topology(settings.namespace))
            made.heard = heard
            return made

        return make

    return link


def told(people: Crowd, heard: float, cpu: float) -> str:
    return (
        f"{len(people.members)} instances of {SERVICES} services, {dict(people.happened)}:"
        f" {heard:.2f} announcements for each pair and heartbeat, a hub {100 * cpu:.2f} % of a processor"
    )


@pytest.mark.slow
@pytest.mark.parametrize("each", [5, 15])
async def test_what_is_heard_grows_with_the_pairs(each: int) -> None:
    """M28 (moleculer#705, #765): 100 and 300 instances of 20 services in memory: each hub hears of those that it calls, once in a
    heartbeat, and of nobody else; none comes or goes, and a hub takes less than 5 % of a processor."""
    async with MemoryNetwork() as network, crowd(each, in_memory(network)) as people:
        check(people, *await people.live(3 * HEARTBEAT))


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 300)
async def test_three_hundred_instances(capsys: pytest.CaptureFixture[str]) -> None:
    """M28 (moleculer#705, #765): the same for ten minutes with 300."""
    async with MemoryNetwork() as network, crowd(15, in_memory(network)) as people:
        heard, cpu = await people.live(SECONDS)
        with capsys.disabled():
            print(f"\n{SECONDS:.0f} s in memory, {told(people, heard, cpu)}")  # noqa: T201  figures to keep
        check(people, heard, cpu)
