"""The reference fleet as processes: one service after the other, orchestrated, and without the fork server, alternating."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Result, Rounds, Table, machine, medians, note, spread
from benchmarks.plot import bars
from fabric.startup.profile import StartupProfile

FLEET = Path("services/todo/fleet.yaml")
WAYS = {"sequential": ["--sequential"], "orchestrated": [], "each loaded afresh": ["--no-fork-server"]}


def _one(way: str, fleet: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="fabric-bench-") as scratch:
        out = Path(scratch) / "profile.json"
        command = [sys.executable, "-m", "fabric.cli", "up", str(fleet), "--exit-when-up", "--profile-out", str(out), *WAYS[way]]
        environment = {**os.environ, "TODO_DATABASE": str(Path(scratch) / "todo.sqlite3")}
        begin, spent = time.monotonic(), _cpu_of_children()
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        wall, cpu = time.monotonic() - begin, _cpu_of_children() - spent
        if done.returncode != 0:
            raise RuntimeError(f"the {way} start failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
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


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fleet", type=Path, default=FLEET)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    facts = machine()
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS:
            measured = _one(way, options.fleet)
            rounds[way].append(measured)
            note(f"startup, round {number + 1}: {way}: {measured['makespan_s']:.2f} s")
    return _result(rounds, options, facts).finish()


def _result(rounds: Rounds, options: argparse.Namespace, facts: dict[str, object]) -> Result:
    middle = medians(rounds)
    saved = 1 - middle["orchestrated"]["makespan_s"] / middle["sequential"]["makespan_s"]
    rows = [
        [
            way,
            f"{m['makespan_s']:.2f}",
            spread([r["makespan_s"] for r in rounds[way]]),
            f"{m['wall_s']:.2f}",
            f"{m['cpu_s']:.2f}",
            f"{m['bound_s']:.2f}",
            f"{m['schedule_efficiency']:.0%}",
            f"{m['work_s']:.2f}",
            f"{m['width']:.0f}",
            f"{m['parallel_efficiency']:.0%}",
        ]
        for way, m in middle.items()
    ]
    head = ("", "makespan", "spread", "command", "CPU", "bound", "bound/makespan", "work", "in parallel", "efficiency")
    return Result(
        name="startup",
        machine=facts,
        options=options,
        notes=(
            f"Start of {options.fleet}, medians of {options.rounds} rounds, in seconds."
            f" Orchestrated takes {saved:.0%} less time than sequential.",
            "Command: from the start of `fabric up` to its end, the fleet stopped. CPU: of all its processes in that time."
            " Bound: what no order could have beaten with these gates and slots and the times measured in that round.",
        ),
        tables=(Table(title="Start of the reference fleet", head=head, rows=rows),),
        values={"saved": saved},
        rounds=rounds,
        plots={"startup": bars("seconds until the fleet is up", {way: m["makespan_s"] for way, m in middle.items()})},
    )
