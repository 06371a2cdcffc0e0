"""Ways to load a server: so many calls in flight, or so many calls a second whatever it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from fabric.fine_timer import FineTimer


@dataclass(frozen=True, slots=True)
class Call:
    """One call, again and again, and its answer. Who makes it looks at the answer: one more coroutine around each would cost as
    much as a part of what is measured."""

    ask: Callable[[], Awaitable[object]]
    answer: object

    def check(self, answer: object) -> None:
        """
        Raises:
            RuntimeError: it is another.
        """
        if answer != self.answer:
            raise RuntimeError(f"another answer than {str(self.answer)[:40]!r}: {str(answer)[:40]!r}")


TICK = 0.0005
"""Seconds that a call of an open load may be late at most where the client keeps up: what is due in a tick starts together."""


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values, the one below which that share lies."""
    return values[min(len(values) - 1, int(share * len(values)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Latencies in seconds, sorted, and how long it all took."""

    latencies: Sequence[float]
    seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def quantiles(self, prefix: str = "") -> dict[str, float]:
        """In milliseconds."""
        shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
        return {prefix + name: quantile(self.latencies, share) * 1e3 for name, share in shares.items()}


async def closed(calls: Sequence[Call], seconds: float) -> Measured:
    """Each of ``calls`` over and over, the next when the last is answered: as many in flight as there are calls."""
    latencies: list[float] = []
    clock = time.perf_counter
    begin = clock()
    end = begin + seconds

    async def worker(call: Call) -> None:
        ask, expected = call.ask, call.answer
        while (start := clock()) < end:
            answer = await ask()
            latencies.append(clock() - start)
            if answer != expected:
                call.check(answer)

    await asyncio.gather(*(worker(call) for call in calls))
    return Measured(latencies=sorted(latencies), seconds=clock() - begin)


async def open_loop(call: Call, rate: float, seconds: float) -> Measured:
    """``rate`` calls a second by the clock, whether the earlier ones are answered or not.

    A latency counts from the time at which its call was due, not from when it could start, so that a stall is felt by all
    calls that were due in it (no coordinated omission). What is due starts when an answer has come, and else with the next tick:
    to wake up for each costs the client more than to make it.
    """
    latencies: list[float] = []
    clock = time.perf_counter
    loop = asyncio.get_running_loop()
    total = max(1, round(seconds * rate))
    started = 0
    callers: set[asyncio.Task[None]] = set()
    idle: list[asyncio.Future[float]] = []
    done: asyncio.Future[None] = loop.create_future()
    begin = clock()

    async def caller(due: float) -> None:
        """Makes a call, and then what is due or it is given next: a task for each would cost the client as much as the call."""
        nonlocal started
        while True:
            call.check(await call.ask())
            now = clock()
            latencies.append(now - due)
            if len(latencies) == total and not done.done():
                done.set_result(None)
            following = begin + (started + 1) / rate
            if following <= now and started < total:
                started += 1
                due = following
                continue
            free: asyncio.Future[float] = loop.create_future()
            idle.append(free)
            due = await free

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not done.done():
            done.set_exception(error)

    def start(due: float) -> None:
        if idle:
            idle.pop().set_result(due)
            return
        task = loop.create_task(caller(due))
        callers.add(task)
        task.add_done_callback(ended)

    def tick() -> None:
        nonlocal started
        due_by_now = min(total, int((clock() - begin) * rate + 1e-6))
        while started < due_by_now and not done.done():
            started += 1
            start(begin + started / rate)
        if not done.done():
            timer.set(max(TICK, begin + (started + 1) / rate - clock()))

    timer = FineTimer(tick)
    try:
        timer.set(max(TICK, 1 / rate))
        async with asyncio.timeout(seconds * 5 + 30):
            await done
    finally:
        timer.close()
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return Measured(latencies=sorted(latencies), seconds=clock() - begin)
