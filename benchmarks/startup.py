"""The reference fleet as processes: one service after the other, orchestrated, and with better stages, alternating.

Once as it is, where starts take milliseconds of computing, and once with waits as real databases, brokers and models have.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Result, Rounds, Table, machine, medians, note, spread
from benchmarks.plot import bars
from benchmarks.waits import FLEET, with_waits
from fabric.startup.profile import StartupProfile

SEQUENTIAL, ORCHESTRATED, AFRESH, OPTIMIZED = (
    "sequential",
    "orchestrated",
    "each loaded afresh",
    "with the stages of fabric optimize",
)
FLAGS = {SEQUENTIAL: ["--sequential"], ORCHESTRATED: [], AFRESH: ["--no-fork-server"], OPTIMIZED: []}
ROOT = Path(__file__).resolve().parents[1]


def _fabric(arguments: Sequence[str], scratch: Path) -> None:
    done = subprocess.run(
        # So that a start that hangs ends with what it said so far.
        ["timeout", "--signal=TERM", "--kill-after=30", "240", sys.executable, "-m", "fabric.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=scratch,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode != 0:
        raise RuntimeError(f"fabric {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _start(way: str, fleet: Path, out: Path) -> dict[str, float]:
    """One start in a directory of its own; its profile goes to ``out``."""
    with tempfile.TemporaryDirectory(prefix="fabric-bench-") as scratch:
        begin, spent = time.monotonic(), _cpu_of_children()
        _fabric(["up", str(fleet), "--exit-when-up", "--profile-out", str(out), *FLAGS[way]], Path(scratch))
        wall, cpu = time.monotonic() - begin, _cpu_of_children() - spent
    profile = StartupProfile.from_json(out.read_text())
    return {
        "makespan_s": profile.makespan,
        "wall_s": wall,
        "cpu_s": cpu,
        "work_s": profile.work,
        "bound_s": profile.bound,
        "bound_without_gates_s": profile.bound_without_gates,
        "parallel_efficiency": profile.parallel_efficiency,
        "schedule_efficiency": profile.schedule_efficiency,
        "width": profile.width,
    }


def _cpu_of_children() -> float:
    """Seconds that all processes have used which have ended and were waited for by those that started them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure(title: str, fleet: Path, ways: Sequence[str], rounds: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    better = folder / f"{fleet.stem}.optimized.yaml"
    profile = folder / "profile.json"
    for number in range(rounds):
        for way in ways:
            if way == OPTIMIZED and not better.exists():
                _fabric(["optimize", str(fleet), "--from", str(folder / "orchestrated.json"), "--out", str(better)], folder)
            path = better if way == OPTIMIZED and better.exists() else fleet
            measured[way].append(_start(way, path, profile))
            if way == ORCHESTRATED:
                profile.replace(folder / "orchestrated.json")
            note(f"{title}, round {number + 1}: {way}: {measured[way][-1]['makespan_s']:.2f} s")
    return measured


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round with short waits, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--waits", type=float, default=1.0, help="times the waits; 0 leaves that part out")
    parser.add_argument("--fleet", type=Path, default=FLEET)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.waits = 1, 0.1
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="fabric-bench-") as scratch:
        folder = Path(scratch)
        fleet = options.fleet.resolve()
        measured = {"as it is": _measure("as it is", fleet, (SEQUENTIAL, ORCHESTRATED, AFRESH), options.rounds, folder)}
        if options.waits:
            waiting = with_waits(folder / "waiting.yaml", options.waits)
            ways = (SEQUENTIAL, ORCHESTRATED, OPTIMIZED)
            measured["with waits"] = _measure("with waits", waiting, ways, options.rounds, folder)
    return _result(measured, options, facts).finish()


def _result(
    measured: dict[str, dict[str, list[dict[str, float]]]], options: argparse.Namespace, facts: dict[str, object]
) -> Result:
    values: dict[str, float] = {}
    shares = []
    for title, rounds in measured.items():
        middle = medians(rounds)
        for way in (ORCHESTRATED, OPTIMIZED):
            if way in middle:
                saved = 1 - middle[way]["makespan_s"] / middle[SEQUENTIAL]["makespan_s"]
                values[f"saved, {title}, {way}"] = saved
                shares.append(f"{title}, {way}: {saved:.0%}")
    return Result(
        name="startup",
        machine=facts,
        options=options,
        notes=(
            f"Start of the reference fleet, medians of {options.rounds} rounds, in seconds. Less time than sequential:"
            f" {'; '.join(shares)}.",
            "Bound: LB, what no order could have beaten with these gates and slots and the times measured in that round, and the"
            " same without gates. Work: T1. Efficiency: T1 / (m T), m services at most starting at once. Command: from the start"
            " of `fabric up` to its end, the fleet stopped. CPU: of all its processes in that time.",
        ),
        tables=tuple(_table(title, rounds) for title, rounds in measured.items()),
        values=values,
        rounds=measured,
        plots={
            "startup" if title == "as it is" else "startup-waits": bars(
                f"seconds until the fleet is up, {title}", {way: m["makespan_s"] for way, m in medians(rounds).items()}
            )
            for title, rounds in measured.items()
        },
    )


def _table(title: str, rounds: Rounds) -> Table:
    rows = [
        [
            way,
            f"{m['makespan_s']:.2f}",
            spread([r["makespan_s"] for r in rounds[way]]),
            f"{m['bound_s']:.2f}",
            f"{m['bound_without_gates_s']:.2f}",
            f"{m['schedule_efficiency']:.0%}",
            f"{m['work_s']:.2f}",
            f"{m['width']:.0f}",
            f"{m['parallel_efficiency']:.0%}",
            f"{m['wall_s']:.2f}",
            f"{m['cpu_s']:.2f}",
        ]
        for way, m in medians(rounds).items()
    ]
    head = ("", "T", "spread", "LB", "without gates", "LB/T", "T1", "m", "T1/(m T)", "command", "CPU")
    return Table(title=f"Start of the reference fleet, {title}", head=head, rows=rows)
