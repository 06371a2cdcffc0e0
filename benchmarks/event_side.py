"""One side of the events: ``python -m benchmarks.event_side NAME publish|subscribe URL``.

Both print ``ready``. ``publish`` reads ``{"seconds": 2, "tasks": 100}`` and prints how many were confirmed and when.
``subscribe`` reads ``{"count": 5000, "timeout": 30}`` and prints when so many were handled since the last such line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from benchmarks.peers.events import PUBLISHERS, SUBSCRIBERS, Publish
from fabric.loop import run

PAYLOAD = "x" * 200


class Tally:
    """Counts what was handled, and wakes whoever waits for a number of it."""

    def __init__(self) -> None:
        self.handled = 0
        self._wanted = 0
        self._reached = asyncio.Event()

    def add(self) -> None:
        self.handled += 1
        if self.handled >= self._wanted:
            self._reached.set()

    async def wait_for(self, count: int, timeout: float) -> float:
        """When that many were handled, at the latest now."""
        self._wanted = count
        self._reached.clear()
        if self.handled < count:
            async with asyncio.timeout(timeout):
                await self._reached.wait()
        self.handled -= count
        return time.monotonic()


async def _publish(publish: Publish, seconds: float, tasks: int) -> dict[str, float]:
    clock, count = time.monotonic, 0
    began = clock()

    async def worker() -> None:
        nonlocal count
        while clock() < began + seconds:
            await publish(PAYLOAD)
            count += 1

    await asyncio.gather(*(worker() for _ in range(tasks)))
    return {"events": count, "began": began, "confirmed": clock()}


async def _orders() -> dict[str, Any] | None:
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return json.loads(line) if line else None


async def _publisher(name: str, url: str) -> None:
    async with PUBLISHERS[name](url) as publish:
        print("ready", flush=True)
        while order := await _orders():
            print(json.dumps(await _publish(publish, order["seconds"], order["tasks"])), flush=True)


async def _subscriber(name: str, url: str) -> None:
    tally = Tally()
    async with SUBSCRIBERS[name](url, tally.add):
        print("ready", flush=True)
        while order := await _orders():
            print(json.dumps({"handled": await tally.wait_for(order["count"], order["timeout"])}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=tuple(PUBLISHERS))
    parser.add_argument("side", choices=("publish", "subscribe"))
    parser.add_argument("url")
    options = parser.parse_args()
    run((_publisher if options.side == "publish" else _subscriber)(options.name, options.url))


if __name__ == "__main__":
    main()
