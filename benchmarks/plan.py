"""Planning and simulating fleets of 10 to 10,000 services: how the cost grows."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.measure import Result, Table, machine, median, note
from benchmarks.plot import lines
from fabric.errors import DependencyCycle
from fabric.startup.definition import Dependency, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.plan import make_plan
from fabric.startup.simulation import Behaviour, Simulation

T = TypeVar("T")

SIZES = {10: 20, 100: 500, 1000: 5000, 10_000: 50_000}

SLOW = 10_000
"""From so many services on a cycle is looked for and a run simulated once, not in every round."""


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
    parser.add_argument("--quick", action="store_true", help="one round of small fleets, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.sizes = 1, "10,100"
    facts = machine()
    return _result([_measure(int(size), options.rounds) for size in options.sizes.split(",")], options, facts).finish()


def _measure(size: int, rounds: int) -> dict[str, float]:
    """Medians in seconds."""
    edges = SIZES.get(size, 5 * size)
    services = fleet(size, edges)
    request = RunRequested(run="bench", services=tuple(services.values()))
    closed = {**services, "s0": ServiceDefinition(name="s0", dependencies=(Dependency(on=f"s{size - 1}"),))}
    measured: dict[str, list[float]] = {"graph": [], "plan": [], "cycle": [], "simulate": []}
    for _ in range(rounds):
        measured["graph"].append(timed(lambda: ServiceDependencyGraph(services))[0])
        measured["plan"].append(timed(lambda: make_plan(request))[0])
        if size < SLOW or not measured["simulate"]:
            measured["cycle"].append(timed(lambda: _cycle(closed))[0])
            measured["simulate"].append(timed(lambda: _simulate(request))[0])
    note(f"plan: {size} services done")
    return {"services": size, "edges": edges, **{name: median(values) for name, values in measured.items()}}


def _result(sizes: list[dict[str, float]], options: argparse.Namespace, facts: dict[str, object]) -> Result:
    parts = ("graph", "plan", "cycle", "simulate")
    rows = [[f"{m['services']:,}", f"{m['edges']:,}", *(f"{m[part]:.3f}" for part in parts)] for m in sizes]
    largest = next((m for m in sizes if m["services"] == 10_000), None)
    return Result(
        name="plan",
        machine=facts,
        options=options,
        notes=(
            f"Seconds, medians of {options.rounds} rounds. Graph: checked and ready to be asked. Plan: for a run."
            " Cycle: found and reported with its path. Simulate: a whole run on a virtual clock.",
        ),
        tables=(Table(title="Plans of growing fleets", head=("services", "edges", *parts), rows=rows),),
        values={"plan_s": largest["plan"], "cycle_s": largest["cycle"]} if largest else {},
        rounds=sizes,
        plots={
            "plan": lines(
                "seconds",
                "services",
                [m["services"] for m in sizes],
                {part: [m[part] for m in sizes] for part in parts},
            )
        },
    )


def _cycle(services: dict[str, ServiceDefinition]) -> None:
    try:
        ServiceDependencyGraph(services)
    except DependencyCycle:
        return
    raise RuntimeError("the cycle was not found")


def _simulate(request: RunRequested) -> None:
    chance = random.Random(2)
    simulation = Simulation(lambda service, instance, attempt: Behaviour(seconds=chance.uniform(0.5, 2.0)))
    simulation.run(request)
