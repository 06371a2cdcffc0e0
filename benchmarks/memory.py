"""What Fabric costs when nothing happens: memory and processor of a process with one hub and its service, and how long it
takes to load."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from benchmarks.broker import rabbitmq
from benchmarks.contest import MODULE
from benchmarks.measure import Result, Table, machine, median, note, spread
from benchmarks.side import side

SETTLING = 3.0
PROGRAMS = {
    "the interpreter alone": ["-c", "pass"],
    "import fabric": ["-c", "import fabric"],
    "from fabric import Hub, Service": ["-c", "from fabric import Hub, Service"],
    "fabric --help": ["-m", "fabric.cli", "--help"],
}


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--starts", type=int, default=10, help="of each program")
    parser.add_argument("--rounds", type=int, default=3, help="of an idle hub")
    parser.add_argument("--seconds", type=float, default=20.0, help="in which an idle hub is watched")
    parser.add_argument("--without-broker", action="store_true", help="only the times to load")
    options = parser.parse_args(arguments)
    if options.quick:
        options.starts, options.rounds, options.seconds = 2, 1, 1.0
    facts = machine()
    starts: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    spent: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(options.starts):
        for name, program in PROGRAMS.items():
            wall, cpu = _start(program)
            starts[name].append(wall)
            spent[name].append(cpu)
    note("memory: loading is measured")
    idle = [] if options.without_broker else _idle_hubs(options.rounds, options.seconds)
    return _result(starts, spent, idle, options, facts).finish()


def _start(program: list[str]) -> tuple[float, float]:
    """Milliseconds from start to end, and those of processor time."""
    before, begin = _children(), time.perf_counter()
    subprocess.run([sys.executable, *program], check=True, capture_output=True, timeout=60)
    return (time.perf_counter() - begin) * 1e3, (_children() - before) * 1e3


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _idle_hubs(rounds: int, seconds: float) -> list[dict[str, float]]:
    found = []
    with rabbitmq() as broker:
        for number in range(rounds):
            with side(MODULE, "fabric", "serve", broker.url) as hub:
                time.sleep(SETTLING)
                before = hub.cpu()
                time.sleep(seconds)
                found.append({"cpu_percent": 100 * (hub.cpu() - before) / seconds, "resident_mb": hub.resident_mb()})
            note(f"memory, round {number + 1}: {found[-1]['resident_mb']:.1f} MB, {found[-1]['cpu_percent']:.2f} %")
    return found


def _result(
    starts: dict[str, list[float]],
    spent: dict[str, list[float]],
    idle: list[dict[str, float]],
    options: argparse.Namespace,
    facts: dict[str, object],
) -> Result:
    bare = median(starts["the interpreter alone"])
    middle = {name: median(times) for name, times in starts.items()}
    values = {"import_ms": middle["import fabric"] - bare}
    tables = [
        Table(
            title="Time to load",
            head=("", "ms", "spread", "without the interpreter", "CPU ms"),
            rows=[
                [name, f"{middle[name]:.0f}", spread(times), f"{middle[name] - bare:.0f}", f"{median(spent[name]):.0f}"]
                for name, times in starts.items()
            ],
        )
    ]
    if idle:
        values |= {key: median([each[key] for each in idle]) for key in ("resident_mb", "cpu_percent")}
        row = ["one hub with its service", f"{values['resident_mb']:.1f}", f"{values['cpu_percent']:.2f}"]
        tables.append(Table(title="An idle process", head=("", "MB resident", "CPU %"), rows=[row]))
    return Result(
        name="memory",
        machine=facts,
        options=options,
        notes=(
            f"Loading: whole processes, medians of {options.starts} starts, in turns."
            " `import fabric` loads a name when it is first used, so a service pays for the row with Hub and Service."
            f" Idle: on RabbitMQ, {options.seconds:g} s after {SETTLING:g} s to settle, medians of {options.rounds} rounds.",
        ),
        tables=tables,
        values=values,
        rounds={"starts": starts, "cpu": spent, "idle": idle},
    )
