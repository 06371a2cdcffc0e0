"""Processes are killed with -9 at full load, for minutes."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from bisect import insort
from collections import Counter
from pathlib import Path

import pytest

from fabric.config import Settings
from fabric.errors import CallError
from fabric.hub import Hub
from tests.brokers.node import BrokerNode
from tests.cells import cells

SECONDS = float(os.environ.get("FABRIC_CHAOS_SECONDS", "600"))
BETWEEN = 10.0
CALLERS = 50
READY = 30.0


class Times:
    """How long calls took: all of them in steps of a millisecond, and the worst."""

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()
        self.worst: list[float] = []

    def add(self, seconds: float) -> None:
        self._steps[int(seconds * 1000)] += 1
        insort(self.worst, seconds)
        del self.worst[:-10]

    def quantile(self, share: float) -> int:
        """Milliseconds, rounded down."""
        left = share * self._steps.total()
        for step in sorted(self._steps):
            left -= self._steps[step]
            if left <= 0:
                return step
        return 0


@pytest.mark.chaos
@pytest.mark.processes
@pytest.mark.timeout(SECONDS + 180)
async def test_a_process_killed_every_ten_seconds(broker: BrokerNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """M7 (moleculer#399, celery#4671), M29 (moleculer#339): three processes on RabbitMQ at full load, one killed with -9 every
    ten seconds and replaced, every second time under its own id: not one idempotent call fails, and what is not idempotent
    runs at most once, exactly once where it was answered."""
    now = time.monotonic
    namespace = f"kill-{uuid.uuid4().hex[:8]}"
    settings = Settings(broker_url=broker.url, namespace=namespace)  # type: ignore[arg-type]
    calls: Counter[str] = Counter()
    answered: set[str] = set()
    safe, lost = Times(), Times()
    failed: list[str] = []
    kills = 0
    async with cells(broker.url, namespace, tmp_path) as fleet, Hub.connect("caller", settings=settings) as hub:

        async def all_there() -> None:
            async with asyncio.timeout(READY):
                while {i.id for i in hub.registry.instances("cell") if i.takes_calls} != set(fleet.running):
                    await asyncio.sleep(0.05)

        for number in range(3):
            await fleet.start(f"cell-{number}")
        await hub.discover_all()
        await all_there()
        began = now()
        end = began + SECONDS

        async def caller(number: int) -> None:
            count = 0
            while now() < end:
                id = f"{number}-{count}"
                count += 1
                start = now()
                try:
                    assert await hub.call("cell", "safe", {"id": id}) == id
                    calls["safe"] += 1
                except CallError as error:
                    failed.append(str(error))
                safe.add(now() - start)
                start = now()
                try:
                    await hub.call("cell", "unsafe", {"id": id})
                    calls["unsafe"] += 1
                    answered.add(id)
                except CallError as error:
                    lost.add(now() - start)
                    calls[type(error).__name__] += 1

        async def killer() -> None:
            nonlocal kills
            due = began + BETWEEN
            while due < end:
                await asyncio.sleep(due - now())
                due += BETWEEN
                victim = next(iter(fleet.running))
                await fleet.kill(victim)
                kills += 1
                await fleet.start(victim if kills % 2 else f"cell-{kills + 2}")
                await all_there()

        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(caller(number))
            group.create_task(killer())
        took = now() - began
        assert hub.pending == 0
        ran = fleet.noted("ran")
    twice = [id for id, times in ran.items() if times > 1]
    never = answered - ran.keys()
    with capsys.disabled():
        print(  # noqa: T201  figures to keep
            f"\n{took:.0f} s on RabbitMQ {broker.version}, three processes at a time, {kills} killed with -9:"
            f" {(calls['safe'] + calls['unsafe']) / took:,.0f} calls/s;"
            f"\nidempotent: {calls['safe']:,} calls, failed {len(failed)}, p50 {safe.quantile(0.5)} ms,"
            f" p99 {safe.quantile(0.99)} ms, longest {safe.worst[-1] * 1000:.0f} ms;"
            f"\nothers: {calls['unsafe']:,} answered, lost with their instance {calls['InstanceLost']}"
            f" (longest {lost.worst[-1] * 1000 if lost.worst else 0:.0f} ms), of these had run"
            f" {len(ran.keys() - answered)}; run twice {len(twice)}, answered without having run {len(never)}"
        )
    assert failed == []
    assert twice == []
    assert never == set()
    assert set(calls) <= {"safe", "unsafe", "InstanceLost"}
    assert kills >= int(SECONDS / (BETWEEN + READY))
