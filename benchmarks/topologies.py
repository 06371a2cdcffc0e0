"""Public fleets on the virtual clock: one after the other, level by level, and orchestrated, against the bound.

Durations are drawn anew for each sample: usual ones from a lognormal distribution, and those of the start within a quarter of
them. Every dependency is waited for until it is healthy, or has ended if it is a job. The files are read from FABRIC_TOPOLOGIES.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import quantile
from benchmarks.measure import Result, Table, machine, median, note
from benchmarks.plot import bars
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.importers.compose import read_compose
from fabric.startup.definition import Condition, Dependency, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.measure import profile_of
from fabric.startup.profile import StartupProfile
from fabric.startup.simulation import Behaviour, Simulation
from fabric.startup.stages import HealthGate, RunOptions, StartupStage

ROOT = Path(os.environ.get("FABRIC_TOPOLOGIES", Path(__file__).resolve().parents[1].parent / "shared" / "topologies"))
_OTEL = "opentelemetry-demo"
FILES: Mapping[str, Sequence[str]] = {
    "OpenTelemetry demo": (f"{_OTEL}/compose.yaml",),
    "the same, all files": tuple(
        f"{_OTEL}/{name}.yaml" for name in ("compose", "compose.full", "compose.observability", "compose.agent")
    ),
    "social network": ("deathstarbench/socialNetwork/docker-compose.yml",),
    "the same, sharded": ("deathstarbench/socialNetwork/docker-compose-sharding.yml",),
    "hotel reservation": ("deathstarbench/hotelReservation/docker-compose.yml",),
    "media microservices": ("deathstarbench/mediaMicroservices/docker-compose.yml",),
    "sock shop": ("sock-shop/docker-compose.yml",),
    "the same, with logging": ("sock-shop/docker-compose.yml", "sock-shop/docker-compose.logging.yml"),
}
SLOTS = (4, 8, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet and a stage for each of its levels."""

    services: tuple[ServiceDefinition, ...]
    jobs: frozenset[str]
    levels: tuple[StartupStage, ...]


def load(files: Sequence[str]) -> Fleet:
    """Names and edges of compose files."""
    drafted = parse_fleet(read_compose([ROOT / file for file in files], environment={}).text(), "fleet.yaml").graph
    jobs = drafted.jobs()
    services = tuple(
        ServiceDefinition(
            name=name,
            critical=True,
            timeout=1e6,
            dependencies=tuple(
                Dependency(on=edge.dependency, condition=Condition.COMPLETED if edge.dependency in jobs else Condition.HEALTHY)
                for edge in drafted.needs(name)
            ),
        )
        for name in drafted
    )
    levels = tuple(
        StartupStage(name=f"level-{index}", services=group, health_gate=HealthGate(required=group), timeout=1e6)
        for index, group in enumerate(ServiceDependencyGraph(services).parallel_groups())
    )
    return Fleet(services=services, jobs=jobs, levels=levels)


def start(
    fleet: Fleet,
    seconds: Mapping[str, float],
    usual: Mapping[str, float],
    options: RunOptions,
    stages: Sequence[StartupStage] = (),
) -> StartupProfile:
    """One simulated start."""

    def behave(service: str, instance: str, attempt: int) -> Behaviour:
        return Behaviour(seconds=seconds[service], exit_code=0 if service in fleet.jobs else None)

    simulation = Simulation(behave)
    simulation.run(
        RunRequested(run="bench", services=fleet.services, stages=tuple(stages), options=options, durations=dict(usual))
    )
    return profile_of(simulation.engine).raise_for_outcome()


def _measure(fleet: Fleet, slots: int | None, samples: int) -> dict[str, float]:
    """Medians over the samples, in seconds, and the 95th percentile of T/LB."""
    found: dict[str, list[float]] = {
        name: [] for name in ("sequential", "levels", "unknown", "ours", "bound", "ratio", "parallel")
    }
    for seed in range(samples):
        chance = random.Random(seed)
        usual = {one.name: chance.lognormvariate(1.0, 0.7) for one in fleet.services}
        seconds = {name: value * chance.uniform(0.8, 1.25) for name, value in usual.items()}
        options = RunOptions(slots=slots)
        ours = start(fleet, seconds, usual, options)
        found["sequential"].append(sum(seconds.values()))
        found["levels"].append(start(fleet, seconds, usual, options, fleet.levels).makespan)
        found["unknown"].append(start(fleet, seconds, {}, options).makespan)
        found["ours"].append(ours.makespan)
        found["bound"].append(ours.bound)
        found["ratio"].append(ours.makespan / ours.bound)
        found["parallel"].append(ours.parallel_efficiency)
    ratios = sorted(found.pop("ratio"))
    return {
        **{name: median(values) for name, values in found.items()},
        "saved": median([1 - a / b for a, b in zip(found["ours"], found["sequential"], strict=True)]),
        "possible": median([1 - a / b for a, b in zip(found["bound"], found["sequential"], strict=True)]),
        "ratio_p50": quantile(ratios, 0.5),
        "ratio_p95": quantile(ratios, 0.95),
    }


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks topologies", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three samples, to see that it works")
    parser.add_argument("--samples", type=int, default=100)
    options = parser.parse_args(arguments)
    if options.quick:
        options.samples = 3
    facts = machine()
    if not ROOT.is_dir():
        note(f"topologies: there are none at {ROOT}; set FABRIC_TOPOLOGIES")
        return 0
    rounds: dict[str, dict[str, dict[str, float]]] = {}
    for name, files in FILES.items():
        fleet = load(files)
        rounds[name] = {str(slots or "no limit"): _measure(fleet, slots, options.samples) for slots in SLOTS}
        rounds[name]["size"] = {"services": len(fleet.services), "levels": len(fleet.levels)}
        note(f"topologies: {name} done")
    return _result(rounds, options, facts).finish()


def _result(rounds: dict[str, dict[str, dict[str, float]]], options: argparse.Namespace, facts: dict[str, object]) -> Result:
    measured = [one for sizes in rounds.values() for key, one in sizes.items() if key != "size"]
    rows = [
        [
            f"{name}, {sizes['size']['services']:.0f} services",
            key,
            f"{one['sequential']:.1f}",
            f"{one['levels']:.1f}",
            f"{one['unknown']:.1f}",
            f"{one['ours']:.1f}",
            f"{one['bound']:.1f}",
            f"{one['saved']:.0%}",
            f"{one['possible']:.0%}",
            f"{1 / one['ratio_p50']:.1%}",
            f"{1 / one['ratio_p95']:.1%}",
            f"{one['parallel']:.0%}",
        ]
        for name, sizes in rounds.items()
        for key, one in sizes.items()
        if key != "size"
    ]
    head = (
        *("", "slots", "sequential", "by level", "first start", "orchestrated", "LB"),
        *("less time", "at most possible", "LB/T", "p95", "T1/(m T)"),
    )
    return Result(
        name="topologies",
        machine=facts,
        options=options,
        notes=(
            f"Public fleets on the virtual clock, medians of {options.samples} samples of durations, in seconds. By level: a"
            " stage for each level of the graph, which waits for all of the one before. First start: no history is known."
            " Orchestrated: with the usual durations known, while those of the start differ by up to a quarter.",
            "Less time: of orchestrated against sequential; at most possible: of the bound LB. p95: LB/T in the worst twentieth.",
        ),
        tables=(Table(title="Public fleets, simulated", head=head, rows=rows),),
        values={
            "least_saved": min(one["saved"] for one in measured),
            "most_over_bound_p50": max(one["ratio_p50"] for one in measured),
            "most_over_bound_p95": max(one["ratio_p95"] for one in measured),
        },
        rounds=rounds,
        plots={
            "topologies": bars(
                "seconds until the fleet is up, 8 slots, by the median",
                {
                    f"{name}, {way}": sizes["8"][key]
                    for name, sizes in rounds.items()
                    for way, key in (("by level", "levels"), ("orchestrated", "ours"), ("bound", "bound"))
                },
            )
        },
    )
