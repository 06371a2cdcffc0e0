"""Instances are killed at full load, for minutes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from fabric import Service, rpc
from fabric.errors import CallError
from fabric.testing import Bench
from tests.puppet import eventually

SECONDS = float(os.environ.get("FABRIC_CHAOS_SECONDS", "600"))
BETWEEN = 10.0


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 120)
async def test_ten_minutes_with_an_instance_killed_every_ten_seconds() -> None:
    """M7 (moleculer#399, celery#4671): three instances at full load, one killed every ten seconds and replaced: not one
    idempotent call fails, and what is not idempotent runs at most once."""
    ran: Counter[str] = Counter()

    class Cell(Service):
        name = "cell"

        @rpc(idempotent=True)
        async def safe(self, id: str) -> str:
            await asyncio.sleep(0.002)
            return id

        @rpc()
        async def unsafe(self, id: str) -> str:
            ran[id] += 1
            await asyncio.sleep(0.002)
            return id

    loop = asyncio.get_running_loop()
    async with Bench() as bench:
        cells = [Cell() for _ in range(3)]
        for cell in cells:
            await bench.start(cell)
        hub = await bench.hub()
        await hub.find("cell")
        end = loop.time() + SECONDS
        calls: Counter[str] = Counter()

        async def caller(number: int) -> None:
            count = 0
            while loop.time() < end:
                id = f"{number}-{count}"
                count += 1
                assert await hub.call("cell", "safe", {"id": id}) == id
                calls["safe"] += 1
                try:
                    await hub.call("cell", "unsafe", {"id": id})
                    calls["unsafe"] += 1
                except CallError as error:
                    calls[type(error).__name__] += 1

        callers = [asyncio.create_task(caller(number)) for number in range(50)]
        while loop.time() + BETWEEN < end:
            await asyncio.sleep(BETWEEN)
            victim = cells.pop(0)
            bench.kill(victim.hub.instance)
            cells.append(Cell())
            await bench.start(cells[-1])
            known = {cell.hub.instance for cell in cells}
            await eventually(lambda known=known: {i.id for i in hub.registry.instances("cell")} == known)  # type: ignore[misc]
            ran_twice = [id for id, times in ran.items() if times > 1]
            assert ran_twice == []
            ran.clear()
        await asyncio.gather(*callers)
        assert calls["safe"] > 100 * SECONDS
        assert set(calls) <= {"safe", "unsafe", "InstanceLost"}
        assert hub.pending == 0
