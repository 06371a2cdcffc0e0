"""What every measurement shares: medians, ratios, the machine's facts, tables, and a result that is printed and kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RESULTS = Path("build/benchmarks")
PACKAGES = ("aio-pika", "aiormq", "msgpack", "uvloop", "faststream", "grpcio", "nats-py", "networkx", "pydantic")

Rounds = Mapping[str, Sequence[Mapping[str, float]]]
"""By contestant, one mapping of what was measured a round."""


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Smallest to largest, for rounds are few."""
    return f"{min(values):,.0f}–{max(values):,.0f}" if max(values) >= 100 else f"{min(values):.3g}–{max(values):.3g}"


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    return {name: {key: median([r[key] for r in results]) for key in results[0]} for name, results in rounds.items()}


def ratio(rounds: Rounds, above: str, below: str, key: str) -> float:
    """Median of the ratios of the same round: what disturbs the machine for a while disturbs both sides of a ratio."""
    return median([a[key] / b[key] for a, b in zip(rounds[above], rounds[below], strict=True)])


def machine() -> dict[str, Any]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "loop": "uvloop for everybody" if find_spec("uvloop") else "asyncio's own for everybody",
        "load_before": round(os.getloadavg()[0], 1),
        "packages": found,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        lines = (self.head, *self.rows)
        widths = [max(len(row[column]) for row in lines) for column in range(len(self.head))]
        shown = []
        for row in (self.head, ["-" * width for width in widths], *self.rows):
            first, *others = zip(row, widths, strict=True)
            shown.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))
        return "\n".join([self.title, *shown])

    def markdown(self) -> str:
        rule = ["---", *["--:"] * (len(self.head) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One benchmark's outcome.

    Attributes:
        values: what targets are checked against, by name.
        rounds: all that was measured, for whoever wants to compute something else.
        plots: SVG by a name that is unique among all benchmarks.
    """

    name: str
    machine: Mapping[str, Any]
    options: argparse.Namespace
    notes: Sequence[str]
    tables: Sequence[Table]
    values: Mapping[str, float]
    rounds: Any
    plots: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.options).items()},
            "notes": list(self.notes),
            "tables": [asdict(table) for table in self.tables],
            "values": self.values,
            "rounds": self.rounds,
        }

    def finish(self, folder: Path = RESULTS) -> int:
        """Print it and write it; the exit code of a benchmark that went through."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.plain(), indent=2, sort_keys=True) + "\n")
        for name, drawing in self.plots.items():
            (folder / f"{name}.svg").write_text(drawing)
        say(f"\n== {self.name}")
        say(f"{self.machine['cores']} cores, load {self.machine['load_before']} before, loop: {self.machine['loop']}")
        for sentence in self.notes:
            say(sentence)
        for table in self.tables:
            say("\n" + table.text())
        say(f"written to {path}" + "".join(f" and {folder / name}.svg" for name in self.plots))
        return 0


def say(text: str = "") -> None:
    print(text, flush=True)


def note(text: str) -> None:
    """Progress, kept apart from the result."""
    print(text, file=sys.stderr, flush=True)
