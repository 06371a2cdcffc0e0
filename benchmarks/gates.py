"""How long after the last vote that opens a gate the commands that it frees are with the agents, on RabbitMQ.

A chain of stages is brought up and down again and again. The coordinator is a process of its own; all agents are in this one,
each with its own links, so both ends of a measurement read one clock. In between are the vote's way through the broker, the
journal, which has it before anything is done, the decision, and the commands' way.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import yaml

from benchmarks.broker import rabbitmq
from benchmarks.load import quantile
from benchmarks.measure import Result, Table, machine, note, spread
from fabric import Health, Hub, Service
from fabric.config import Settings
from fabric.coordination.agent import Agent
from fabric.coordination.status import FleetStatus, RunState, UpOptions
from fabric.errors import CallError

NAMESPACE = "gates"
_LIMIT = 60.0


class Member(Service):
    """Ready at once; remembers when it was told to start and when it first said yes."""

    def __init__(self) -> None:
        self.told = self.voted = 0.0

    async def start(self) -> None:
        self.told, self.voted = time.monotonic(), 0.0

    async def check_health(self) -> Health:
        if not self.voted:
            self.voted = time.monotonic()
        return Health.ok()


def fleet(stages: int, width: int) -> tuple[str, list[list[str]]]:
    """The fleet file, and the services of each stage."""
    names = [[f"s{stage}-{place}" for place in range(width)] for stage in range(stages)]
    entry = {
        "name": NAMESPACE,
        "services": {name: {"critical": True} for stage in names for name in stage},
        "stages": [{"name": f"stage-{at}", "services": stage, "gate": {"required": stage}} for at, stage in enumerate(names)],
    }
    return yaml.safe_dump(entry, sort_keys=False), names


def overheads(members: dict[str, Member], stages: list[list[str]]) -> list[float]:
    """Of each gate: seconds from the last yes before it until the last service behind it was told."""
    found = []
    for before, behind in pairwise(stages):
        last_vote = max(members[name].voted for name in before)
        found.append(max(members[name].told for name in behind) - last_vote)
    return found


@asynccontextmanager
async def agents(url: str, stages: list[list[str]]) -> AsyncIterator[dict[str, Member]]:
    """One instance of every service, waiting for its command."""
    members: dict[str, Member] = {}
    settings = Settings(namespace=NAMESPACE, instance="")
    async with AsyncExitStack() as stack:
        for name in (name for stage in stages for name in stage):
            members[name] = type("Named", (Member,), {"name": name})()
            agent = Agent(await stack.enter_async_context(Hub.connect(name, url=url, settings=settings)), members[name])
            stack.push_async_callback(agent.aclose)
            await agent.open(managed=True)
        yield members


async def _settled(hub: Hub, method: str, wanted: RunState, *arguments: UpOptions) -> None:
    """Asks for it and waits until it is so."""
    status: FleetStatus | None = None
    try:
        async with asyncio.timeout(_LIMIT):
            while status is None:
                try:
                    status = await hub.call("coordinator", method, *arguments, returns=FleetStatus, timeout=_LIMIT)
                except CallError:  # it is loading yet
                    await asyncio.sleep(0.1)
            while status.state is not wanted:
                await asyncio.sleep(0.05)
                status = await hub.call("coordinator", "status", returns=FleetStatus, timeout=_LIMIT)
    except TimeoutError:
        raise RuntimeError(f"{method} was not {wanted} within {_LIMIT:g} s, but {status}") from None


async def _measure(url: str, stages: list[list[str]], rounds: int) -> list[list[float]]:
    settings = Settings(namespace=NAMESPACE, instance="")
    async with Hub.connect("bench", url=url, settings=settings) as hub, agents(url, stages) as members:
        found = []
        for number in range(rounds):
            await _settled(hub, "up", RunState.UP, UpOptions())
            found.append(overheads(members, stages))
            await _settled(hub, "down", RunState.STOPPED)
            one = sorted(1e3 * seconds for seconds in found[-1])
            note(f"gates, round {number + 1}: {quantile(one, 0.5):.1f} ms in the middle, {one[-1]:.1f} ms at most")
        return found


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gates", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--stages", type=int, default=9, help="one more than there are gates with something behind them")
    parser.add_argument("--width", type=int, default=3, help="services of each stage")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.stages, options.width = 1, 3, 2
    facts = machine()
    text, stages = fleet(options.stages, options.width)
    with tempfile.TemporaryDirectory(prefix="fabric-bench-") as scratch, rabbitmq() as broker:
        file = Path(scratch) / "fleet.yaml"
        file.write_text(text)
        environment = {**os.environ, "FABRIC_BROKER_URL": broker.url, "FABRIC_NAMESPACE": NAMESPACE}
        log = (Path(scratch) / "coordinator.log").open("wb")
        with (
            log,
            subprocess.Popen(
                [sys.executable, "-m", "fabric.cli", "coordinator", str(file)], env=environment, stdout=log, stderr=log
            ) as coordinator,
        ):
            try:
                # The first start loads code and makes the journal.
                _, *rounds = asyncio.run(_measure(broker.url, stages, options.rounds + 1))
            finally:
                coordinator.terminate()
        options.broker = broker.version
    return _result(rounds, options, facts).finish()


def _result(rounds: list[list[float]], options: argparse.Namespace, facts: dict[str, object]) -> Result:
    found = sorted(1e3 * seconds for one in rounds for seconds in one)
    p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
    return Result(
        name="gates",
        machine=facts,
        options=options,
        notes=[
            f"RabbitMQ {options.broker}, the journal in a stream; {len(found)} gates of {options.width} votes, with "
            f"{options.width} services behind each",
        ],
        tables=[
            Table(
                title="From the last vote until all commands that it frees are with the agents, ms",
                head=("", "p50", "p99", "smallest to largest"),
                rows=[["gate opens", f"{p50:.1f}", f"{p99:.1f}", spread(found)]],
            )
        ],
        values={"p50_ms": p50, "p99_ms": p99},
        rounds={"gate_ms": [[1e3 * seconds for seconds in one] for one in rounds]},
    )
