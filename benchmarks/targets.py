"""What the measurements are to reach, and whether they did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table.

    Attributes:
        value: the benchmark and the name among its values.
        goal: in ``unit``; at least that, or with ``at_most`` no more.
    """

    work: str
    value: tuple[str, str]
    goal: float
    unit: str
    at_most: bool = False

    def row(self, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
        benchmark, name = self.value
        goal = f"{'≤' if self.at_most else '≥'} {self.goal:g} {self.unit}"
        values = results.get(benchmark, {}).get("values", {})
        measured, compiled = values.get(name), values.get(f"compiled_{name}")
        also = ["", ""] if compiled is None else [f"{compiled:.3g}", self._verdict(compiled)]
        if measured is None:
            return [self.work, goal, "—", "not measured", *also]
        return [self.work, goal, f"{measured:.3g} {self.unit}", self._verdict(measured), *also]

    def _verdict(self, measured: float) -> str:
        reached = measured <= self.goal if self.at_most else measured >= self.goal
        return "reached" if reached else "not reached"


_RPC = "calls/s, 100 in flight, all features on"

TARGETS: Sequence[Target] = (
    Target(work=_RPC, value=("rpc", "to_aio_pika_rpc"), goal=40, unit="× aio-pika RPC"),
    Target(work=_RPC, value=("rpc", "to_grpc_asyncio"), goal=10, unit="× gRPC asyncio"),
    Target(work=_RPC, value=("rpc", "to_nats"), goal=1.5, unit="× nats-py"),
    Target(
        work="p50 of lone calls (aim: 0.7)",
        value=("latency", "lone_to_aiormq"),
        goal=1.0,
        unit="× bare aiormq, direct reply-to",
        at_most=True,
    ),
    Target(
        work="p99 at half of the peak rate",
        value=("latency", "half_p99_to_lone_p50"),
        goal=5,
        unit="× p50 of lone calls",
        at_most=True,
    ),
    Target(
        work="confirmed durable events/s, acknowledged",
        value=("events", "to_aio_pika"),
        goal=10,
        unit="× aio-pika, 100 tasks",
    ),
    Target(work="20 services, 5 calls in flight each", value=("fan-out", "to_aio_pika_rpc"), goal=10, unit="× aio-pika RPC"),
    Target(
        work="last vote until the commands are with the agents, p99", value=("gates", "p99_ms"), goal=50, unit="ms", at_most=True
    ),
    Target(work="plan of 10,000 services, 50,000 edges", value=("plan", "plan_s"), goal=1, unit="s", at_most=True),
    Target(work="a cycle among as many, reported", value=("plan", "cycle_s"), goal=1, unit="s", at_most=True),
    Target(
        work="public fleets, simulated: T / LB, median",
        value=("topologies", "most_over_bound_p50"),
        goal=1.05,
        unit="×",
        at_most=True,
    ),
    Target(work="the same, 95th percentile", value=("topologies", "most_over_bound_p95"), goal=1.15, unit="×", at_most=True),
    Target(work="a breaker's decision after the evidence, p99", value=("decision", "p99_ms_1"), goal=1, unit="ms", at_most=True),
    Target(work="idle hub, resident", value=("memory", "resident_mb"), goal=60, unit="MB", at_most=True),
    Target(work="idle hub, processor", value=("memory", "cpu_percent"), goal=0.5, unit="%", at_most=True),
    Target(work="import fabric", value=("memory", "import_ms"), goal=250, unit="ms", at_most=True),
)


def kept(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The results of earlier runs by benchmark."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def against_targets(results: Mapping[str, Mapping[str, Any]], only: str | None = None) -> Table:
    """The table of targets: all, or those of one benchmark. They are for the package as it is installed; what the compiled one
    reaches stands beside it."""
    rows = [target.row(results) for target in TARGETS if only in (None, target.value[0])]
    return Table(title="Targets", head=("work", "at least / at most", "measured", "", "compiled", ""), rows=rows)
