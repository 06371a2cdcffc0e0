"""Planning and simulating fleets of 10 to 10,000 services: how the cost grows."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.measure import machine, median, note, save, say, table
from fabric.errors import DependencyCycle
from fabric.startup.definition import Dependency, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.plan import make_plan
from fabric.startup.simulation import Behaviour, Simulation

T = TypeVar("T")

SIZES = {10: 20, 100: 500, 1000: 5000, 10_000: 50_000}


def fleet(services: int, edges: int, seed: int = 1) -> dict[str, ServiceDefinition]:
    """A random fleet without cycles: each service needs earlier ones."""
    chance = random.Random(seed)
    needs: dict[int, set[int]] = {number: set() for number in range(services)}
    made = 0
    while made < edges:
        later = chance.randrange(1, services)
        earlier = chance.randrange(max(0, later - 500), later)
        if earlier not in needs[later]:
            needs[later].add(earlier)
            made += 1
    return {
        f"s{number}": ServiceDefinition(
            name=f"s{number}",
            critical=chance.random() < 0.3,
            dependencies=tuple(Dependency(on=f"s{other}") for other in sorted(others)),
        )
        for number, others in needs.items()
    }


def timed(work: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    value = work()
    return time.perf_counter() - begin, value


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    options = parser.parse_args(arguments)
    facts = machine()
    results: dict[str, dict[str, float]] = {}
    rows = []
    for size in map(int, options.sizes.split(",")):
        services = fleet(size, SIZES.get(size, 5 * size))
        request = RunRequested(run="bench", services=tuple(services.values()))
        first, last = services["s0"], f"s{size - 1}"
        closed = {**services, "s0": ServiceDefinition(name=first.name, dependencies=(Dependency(on=last),))}
        measured: dict[str, list[float]] = {"graph": [], "plan": [], "cycle": [], "simulate": []}
        for _ in range(options.rounds):
            measured["graph"].append(timed(lambda: ServiceDependencyGraph(services))[0])  # noqa: B023
            measured["plan"].append(timed(lambda: make_plan(request))[0])  # noqa: B023
            measured["cycle"].append(timed(lambda: _cycle(closed))[0])  # noqa: B023
            seconds, makespan = timed(lambda: _simulate(request))  # noqa: B023
            measured["simulate"].append(seconds)
        note(f"{size} services: {makespan:.0f} s long on paper")
        results[str(size)] = medians = {name: median(values) for name, values in measured.items()}
        rows.append([f"{size:,}", f"{SIZES.get(size, 5 * size):,}", *(f"{medians[name]:.3f}" for name in measured)])
    say("seconds, medians; graph: checked and ready to be asked; plan: for a run; cycle: found and reported with its path")
    table(["services", "edges", "graph", "plan", "cycle", "simulate"], rows)
    say(f"written to {save('plan', {'machine': facts, 'options': vars(options), 'medians': results})}")
    return 0


def _cycle(services: dict[str, ServiceDefinition]) -> None:
    try:
        ServiceDependencyGraph(services)
    except DependencyCycle:
        return
    raise RuntimeError("the cycle was not found")


def _simulate(request: RunRequested) -> float:
    chance = random.Random(2)
    simulation = Simulation(lambda service, instance, attempt: Behaviour(seconds=chance.uniform(0.5, 2.0)))
    simulation.run(request)
    return simulation.engine.finished_at - simulation.engine.started_at
