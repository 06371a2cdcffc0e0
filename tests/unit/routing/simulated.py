"""A closed loop of callers on instances with made-up behaviour, in virtual time: the same choices as in a hub, no bus."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from fabric.routing.policies import Policies, RoutePolicy
from fabric.routing.registry import Endpoint, ServiceRegistry
from fabric.routing.traffic import Traffic
from tests.unit.routing.instances import instance

Behaviour = Callable[[float], tuple[float, bool]]
"""From the time that a call begins to the seconds that it takes and whether it succeeds."""


def takes(seconds: float, *, ok: bool = True) -> Behaviour:
    return lambda _: (seconds, ok)


def hangs(timeout: float) -> Behaviour:
    return lambda _: (timeout, False)


@dataclass
class Told:
    """What happened: the instance of each choice in order, and how many calls began at and succeeded on each, by second."""

    choices: list[str] = field(default_factory=list)
    began: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    succeeded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def share(self, id: str, start: int, end: int) -> float:
        """Of the calls that began in these seconds."""
        every: Counter[str] = sum((self.began[second] for second in range(start, end)), Counter())
        return every[id] / every.total()


def run(
    behaviours: dict[str, Behaviour], policy: RoutePolicy, *, seconds: float, workers: int = 20, seed: int = 0
) -> tuple[Told, Traffic]:
    """Each worker makes one call after the other. ``balancing`` must not be p2c by the machine's clock: see ``Clocked``."""
    chance = random.Random(seed)
    registry = ServiceRegistry()
    for id in behaviours:
        registry.apply(instance(id), 0.0)
    traffic = Traffic(registry, Policies(default=policy), place=("", ""), chance=chance)
    route = traffic.to("a")
    now = 0.0
    if hasattr(route._strategy, "_now"):
        route._strategy._now = lambda: now
    told = Told()
    order = itertools.count()
    ends: list[tuple[float, int, Endpoint, int, int, float, bool]] = []

    def begin() -> None:
        endpoint = route.choose(frozenset(), None, now)
        assert endpoint is not None
        gate = route.breaker.acquire(now) if route.breaker is not None else 0
        permit = traffic.ejections.acquire(endpoint, now)
        took, ok = behaviours[endpoint.id](now)
        took *= 0.9 + 0.2 * chance.random()
        endpoint.pending += 1
        told.choices.append(endpoint.id)
        told.began[int(now)][endpoint.id] += 1
        heapq.heappush(ends, (now + took, next(order), endpoint, gate, permit, took, ok))

    for _ in range(workers):
        begin()
    while ends and ends[0][0] < seconds:
        now, _, endpoint, gate, permit, took, ok = heapq.heappop(ends)
        endpoint.pending -= 1
        traffic.ejections.settle(endpoint, permit, now, ok=ok, seconds=took)
        if route.breaker is not None:
            route.breaker.settle(gate, now, ok=ok, seconds=took)
        (told.succeeded if ok else told.failed)[endpoint.id] += 1
        begin()
    return told, traffic
