"""Confirmed events through a cluster that is being harmed: what was sent, what came, how often, and for how long nothing came."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fabric import Hub, Service, on_event
from fabric.config import Settings
from fabric.coordination.agent import Agent
from fabric.errors import TransportError
from fabric.transports.amqp import AmqpTransport
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.backoff import Backoff
from fabric.transports.topology import Topology
from tests.brokers.cluster import Cluster
from tests.brokers.proxy import Balancer

CONSUMERS = 2
AT_ONCE = 300
MOST_HELD = 200
"""Events that one consumer may have and not have acknowledged."""
CONFIRM_SECONDS = 3.0
PATIENCE = 100.0
"""Seconds: longer than a cluster may stand still with a node that is paused, which its peers give up after 45 to 75."""


@dataclass
class Tally:
    """What is seen of it.

    Attributes:
        confirmed: numbers of the events that the broker said it has.
        repeated: sendings whose outcome was unknown or none, and that were sent again under the same id.
        received: how often each came.
        shares: of the consumers.
        pause: the longest time in seconds in which nothing came although there was something to come.
    """

    confirmed: set[int] = field(default_factory=set)
    repeated: int = 0
    received: Counter[int] = field(default_factory=Counter)
    shares: list[int] = field(default_factory=lambda: [0] * CONSUMERS)
    pause: float = 0.0
    last: float = 0.0
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        return len(self.confirmed - set(self.received))

    @property
    def doubled(self) -> int:
        return sum(self.received.values()) - len(self.received)

    def arrived(self, number: int, consumer: int) -> None:
        self.shares[consumer] += 1
        now = asyncio.get_running_loop().time()
        self.pause = max(self.pause, now - (self.last or now))
        self.last = now
        self.received[number] += 1

    def __str__(self) -> str:
        return (
            f"{len(self.confirmed)} events confirmed in {self.seconds:.1f} s ({len(self.confirmed) / self.seconds:.0f} a second),"
            f" {self.lost} lost, {self.doubled} doubled, {self.repeated} sent again, longest pause {self.pause:.1f} s"
        )


class Counting(Service):
    name = "counting"

    def __init__(self, tally: Tally, number: int) -> None:
        self._tally, self._number = tally, number

    @on_event("load.*", concurrency=MOST_HELD, max_attempts=50)
    async def count(self, number: int) -> None:
        self._tally.arrived(number, self._number)


class EventLoad:
    """One publisher and some consumers, each before all nodes of a cluster."""

    def __init__(self, publisher: Hub, tally: Tally) -> None:
        self._publisher, self.tally = publisher, tally

    @property
    def queue(self) -> str:
        name = self._publisher.topology.event_group("counting", (), prefetch=1, max_attempts=1, retry_delays=(1.0,)).name
        assert name is not None
        return name

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Publish one event after the other, each until it is confirmed, as long as the context lasts. Ends when all have come,
        or none has for long."""
        clock = asyncio.get_running_loop().time
        began, enough, numbers = clock(), asyncio.Event(), itertools.count()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._publish(numbers, enough))
            try:
                yield
            finally:
                enough.set()
        self.tally.seconds = clock() - began
        idle_since = clock()
        while len(self.tally.received) < len(self.tally.confirmed) and clock() - max(self.tally.last, idle_since) < PATIENCE:
            await asyncio.sleep(0.1)

    async def _publish(self, numbers: Iterator[int], enough: asyncio.Event) -> None:
        while not enough.is_set():
            number = next(numbers)
            while number not in self.tally.confirmed:
                try:
                    await self._publisher.publish("load.made", number, id=str(number), timeout=CONFIRM_SECONDS)
                except TransportError:
                    self.tally.repeated += 1
                else:
                    self.tally.confirmed.add(number)

    async def confirms(self, count: int) -> None:
        """Until so many in all are confirmed, and as many have come but for what may be under way."""
        async with asyncio.timeout(PATIENCE + count / 100):
            while len(self.tally.confirmed) < count or len(self.tally.received) < count - 2 * MOST_HELD:
                await asyncio.sleep(0.05)

    async def goes_on_or_says_so(self, more: int) -> None:
        """Until so many more are confirmed, or publishing ends typed: a node of 4.3 that is cut off keeps its links, and answers
        all but confirms."""
        confirmed, repeated = len(self.tally.confirmed) + more, self.tally.repeated
        async with asyncio.timeout(PATIENCE):
            while len(self.tally.confirmed) < confirmed and self.tally.repeated == repeated:
                await asyncio.sleep(0.05)

    async def goes_on(self, more: int, *, everybody: bool = False) -> None:
        """Until so many more are confirmed and have come, and every consumer got some if ``everybody`` is to."""
        tally = self.tally
        confirmed, received, shares = len(tally.confirmed) + more, len(tally.received) + more, tuple(tally.shares)

        def has_gone_on() -> bool:
            return (
                len(tally.confirmed) >= confirmed
                and len(tally.received) >= received
                and (not everybody or all(now > before for now, before in zip(tally.shares, shares, strict=True)))
            )

        async with asyncio.timeout(PATIENCE):
            while not has_gone_on():
                await asyncio.sleep(0.05)


def _transport(url: str, topology: Topology) -> AmqpTransport:
    patience = {"ping_interval": 0.5, "ping_timeout": 2.0, "operation_timeout": 5.0}
    return AmqpTransport(AmqpSettings.from_url(url, backoff=Backoff(first=0.1, most=1.0), **patience), topology)


@asynccontextmanager
async def event_load(cluster: Cluster, namespace: str) -> AsyncIterator[EventLoad]:
    """Ready to run: the consumers consume. Each hub is linked to other nodes than the next one."""
    settings = Settings(broker_url=None, namespace=namespace, instance="", connect_timeout=30.0)
    tally = Tally()
    async with AsyncExitStack() as stack:

        async def hub(name: str, first: int) -> Hub:
            balancer = await stack.enter_async_context(Balancer(cluster.urls[first:] + cluster.urls[:first]))
            link = _transport(balancer.url, Topology(namespace))
            return await stack.enter_async_context(Hub.connect(name, transport=link, settings=settings))

        for number in range(CONSUMERS):
            agent = Agent(await hub("counting", number), Counting(tally, number))
            stack.push_async_callback(agent.aclose)
            await agent.open(managed=False)
        yield EventLoad(await hub("publisher", CONSUMERS), tally)


def tell(capsys: pytest.CaptureFixture[str], cluster: Cluster, harm: str, load: EventLoad) -> None:
    """Print what was measured, also of a test that passes."""
    with capsys.disabled():
        sys.stdout.write(f"\nRabbitMQ {cluster.version}, {harm}: {load.tally}\n")
