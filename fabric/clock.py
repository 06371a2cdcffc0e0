"""Time as a value that is handed in, so that tests move it by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...

    def time(self) -> float:
        """Seconds since 1970, comparable between machines as far as their clocks agree."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after ``seconds``; zero or less only yields."""
        ...


class SystemClock:
    """The clock of this machine."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
    sleep = staticmethod(asyncio.sleep)


class VirtualClock:
    """A clock that only moves when it is told to, for tests and simulations.

    Args:
        start: what ``time()`` says at first; ``monotonic()`` begins at 0.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start, self._now = start, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._start + self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves the clock on; who sleeps wakes at his own time, and what he then does happens at that time."""
        until = self._now + seconds
        await self._quiet()
        while self._wake_next(until):
            await self._quiet()
        self._now = until

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs ``work`` to its end and jumps over every time in which all sleep.

        Raises:
            TimeoutError: nobody sleeps any more and ``work`` still waits, so that it would wait for ever.
        """
        task = asyncio.ensure_future(work)
        try:
            await self._quiet()
            while not task.done():
                if not self._wake_next(float("inf")):
                    raise TimeoutError("the work waits, but nobody sleeps whose waking could end that")
                await self._quiet()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return task.result()

    def _wake_next(self, until: float) -> bool:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        if not self._sleepers or self._sleepers[0][0] > until:
            return False
        self._now, _, future = heapq.heappop(self._sleepers)
        future.set_result(None)
        return True

    @staticmethod
    async def _quiet() -> None:
        """Lets everything run that can run without time passing, as far as it hops through the event loop 100 times."""
        for _ in range(100):
            await asyncio.sleep(0)
