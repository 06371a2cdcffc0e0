"""Calls at a time of an injected clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from fabric.clock import Clock


class Timers:
    """Many calls to come, one task that sleeps until the next; no task while there are none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._waits_until = 0.0

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run ``call`` in the event loop after ``seconds``. It must not raise."""
        due = self._clock.monotonic() + seconds
        heapq.heappush(self._heap, (due, next(self._count), call))
        if self._task is None or due < self._waits_until:
            self._sleep()

    async def aclose(self) -> None:
        """Forget all calls to come. Idempotent."""
        self._heap.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _sleep(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._waits_until = self._heap[0][0]
        self._task = asyncio.get_running_loop().create_task(self._run(), name="fabric timers")

    async def _run(self) -> None:
        while self._heap:
            self._waits_until = self._heap[0][0]
            await self._clock.sleep(self._waits_until - self._clock.monotonic())
            while self._heap and self._heap[0][0] <= self._clock.monotonic():
                heapq.heappop(self._heap)[2]()
        self._task = None
