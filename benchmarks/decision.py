"""From the answer that is too much for a breaker to its being open: how long calls go on to a service that fails."""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from dataclasses import dataclass, field

from benchmarks.measure import Result, Table, machine
from fabric import BreakerPolicy, Hub, Policies, RetryPolicy, RoutePolicy, Service, ServiceError, rpc
from fabric.config import Settings
from fabric.errors import CallError, CircuitOpen
from fabric.loop import run as run_loop
from fabric.routing.breaker import Breaker
from fabric.testing import Bench
from fabric.transports.base import Delivery, QueueSpec, Receiver, Transport
from fabric.transports.linked_consumer import LinkedConsumer
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology

FAILURES = 5


@dataclass
class Watch:
    """Seconds from a body of answers coming in to the breaker being open, by the clock and of the processor."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    began: tuple[float, float] | None = None
    later: int = 0
    """Trips outside of the step that takes a body."""

    def watching(self, receiver: Receiver) -> Receiver:
        def receive(delivery: Delivery) -> None:
            self.began = time.perf_counter(), time.thread_time()
            receiver(delivery)
            self.began = None

        return receive

    def opened(self) -> None:
        if self.began is None:
            self.later += 1
        else:
            self.wall.append(time.perf_counter() - self.began[0])
            self.processor.append(time.thread_time() - self.began[1])


class WatchedBreaker(Breaker):
    def __init__(self, policy: BreakerPolicy, watch: Watch) -> None:
        super().__init__(policy)
        self._watch = watch

    def _open(self, now: float) -> None:
        super()._open(now)
        self._watch.opened()


class WatchedTransport(MemoryTransport):
    answers: Watch | None = None

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> LinkedConsumer:
        watched = receiver if self.answers is None else self.answers.watching(receiver)
        return await super().consume(queue, watched, timeout=timeout)


class Broken(Service):
    name = "broken"

    @rpc()
    async def work(self) -> None:
        raise ServiceError("no", retryable=True)


async def measure(trips: int, in_flight: int) -> Watch:
    """Trip the breaker of a hub so many times, with so many calls under way each time."""
    watch = Watch()
    policy = RoutePolicy(
        breaker=BreakerPolicy(minimum_calls=FAILURES, open_for=60.0), retry=RetryPolicy(attempts=1), ejection=None
    )
    async with MemoryNetwork() as network:

        async def link(settings: Settings) -> Transport:
            return WatchedTransport(network, Topology(settings.namespace))

        async with Bench(network=network, transport=link) as bench:
            await bench.start(Broken())
            transport = WatchedTransport(network, Topology("fabric"))
            transport.answers = watch
            settings = Settings(namespace="fabric")
            async with Hub.connect("caller", transport=transport, settings=settings, policies=Policies(default=policy)) as hub:
                assert policy.breaker is not None
                hub.traffic.to("broken").breaker = WatchedBreaker(policy.breaker, watch)
                for _ in range(trips):
                    while hub.traffic.open_circuits == {}:
                        ended = await asyncio.gather(
                            *(hub.call("broken", "work") for _ in range(in_flight)), return_exceptions=True
                        )
                        if not all(isinstance(error, CallError) for error in ended):
                            raise RuntimeError(f"calls were to fail, and ended as {ended[0]!r}")
                    try:
                        await hub.call("broken", "work")
                    except CircuitOpen:
                        hub.traffic.restore("broken")
                    else:
                        raise RuntimeError("the open breaker let a call through")
    return watch


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks decision", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few trips, to see that it works")
    parser.add_argument("--trips", type=int, default=2000)
    options = parser.parse_args(arguments)
    if options.quick:
        options.trips = 100
    facts = machine()
    gc.freeze()
    rows: list[list[str]] = []
    values: dict[str, float] = {}
    for in_flight in (1, 100):
        watch = run_loop(measure(options.trips if in_flight == 1 else max(10, options.trips // 5), in_flight))
        shown = {
            name: [_quantile(getattr(watch, name), share) * 1000 for share in (0.5, 0.99, 1.0)] for name in ("wall", "processor")
        }
        rows.append(
            [str(in_flight), str(len(watch.wall)), str(watch.later), *(f"{value:.3f}" for name in shown for value in shown[name])]
        )
        values |= {f"p99_ms_{in_flight}": shown["wall"][1], f"later_{in_flight}": float(watch.later)}
    head = ("calls in flight", "trips", "later", "p50", "p99", "longest", "CPU p50", "CPU p99", "CPU longest")
    return Result(
        name="decision",
        machine=facts,
        options=options,
        notes=(
            "Milliseconds from the arrival of the body with the deciding answer at the hub to its breaker being open, with all"
            " that the body holds before it read on the way. In memory: nothing else is in it. Later: not in that very step.",
        ),
        tables=(Table(title="A breaker's decision after the evidence", head=head, rows=rows),),
        values=values,
        rounds=[],
    ).finish()


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
