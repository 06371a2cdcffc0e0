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
from typing import Any

from benchmarks.measure import machine, median, note, save, say, spread, table
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fleet", type=Path, default=FLEET)
    options = parser.parse_args(arguments)
    facts = machine()
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        for way in WAYS:
            measured = _one(way, options.fleet)
            rounds[way].append(measured)
            note(f"round {number + 1}: {way}: {measured['makespan_s']:.2f} s")
    report(rounds, options, facts)
    return 0


def report(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace, facts: dict[str, Any]) -> None:
    medians = {way: {key: median([r[key] for r in results]) for key in results[0]} for way, results in rounds.items()}
    say(f"start of {options.fleet}, medians of {options.rounds} rounds, in seconds")
    say("command: from the start of `fabric up` to its end, the fleet stopped; CPU: of all its processes in that time")
    say("bound: what no order could have beaten with these gates and slots and the times measured in that round")
    table(
        ["", "makespan", "spread", "command", "CPU", "bound", "bound/makespan", "work", "in parallel", "efficiency"],
        [
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
            for way, m in medians.items()
        ],
    )
    saved = 1 - medians["orchestrated"]["makespan_s"] / medians["sequential"]["makespan_s"]
    say(f"orchestrated takes {saved:.0%} less time than sequential")
    plain = {**vars(options), "fleet": str(options.fleet)}
    say(f"written to {save('startup', {'machine': facts, 'options': plain, 'medians': medians, 'rounds': rounds})}")
