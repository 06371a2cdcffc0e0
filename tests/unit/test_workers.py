"""Tasks that run handlers: shared while nobody waits, one's own from the first wait on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from fabric.workers import TURN, Workers

Work = Callable[[], Coroutine[Any, Any, object]]


class Run:
    """Workers that run functions, and the tasks that ran them."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.done = 0
        self.workers: Workers[Work] = Workers(self._run, "test")

    async def _run(self, work: Work, task: asyncio.Task[None]) -> None:
        assert asyncio.current_task() is task
        self.tasks.append(task)
        try:
            await work()
        finally:
            self.done += 1

    async def until_done(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.done < count:
                await asyncio.sleep(0)


async def test_what_never_waits_shares_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred small handlers cost one task, and run in order."""
    monkeypatch.setattr("fabric.workers.TURN", 60.0)
    run = Run()
    order: list[int] = []

    def make(number: int) -> Work:
        async def work() -> None:
            order.append(number)

        return work

    for number in range(100):
        run.workers.put(make(number))
    assert order == []
    await run.until_done(100)
    assert order == list(range(100))
    assert len(set(run.tasks)) == 1


async def test_one_that_waits_holds_up_nobody() -> None:
    """The rest goes on in another task within a turn, and all wait at the same time."""
    run = Run()
    gate = asyncio.Event()
    begun: list[int] = []

    def make(number: int) -> Work:
        async def work() -> None:
            begun.append(number)
            await gate.wait()

        return work

    for number in range(20):
        run.workers.put(make(number))
    async with asyncio.timeout(5):
        while len(begun) < 20:
            await asyncio.sleep(0)
    assert run.done == 0
    assert len(set(run.tasks)) == 20
    gate.set()
    await run.until_done(20)


async def test_many_that_all_wait_begin_within_a_few_turns() -> None:
    """Each turn twice as many begin, as long as none of them ends at once; the first that does puts an end to that."""
    run = Run()
    gate = asyncio.Event()

    for _ in range(500):
        run.workers.put(gate.wait)
    turns = 0
    while len(run.tasks) < 500:
        await asyncio.sleep(0)
        turns += 1
    assert turns < 30
    assert len(set(run.tasks)) == 500
    gate.set()
    await run.until_done(500)
    before = len(run.tasks)

    async def quick() -> None: ...

    for _ in range(2):
        for _ in range(50):
            run.workers.put(quick)
        await run.until_done(len(run.tasks) + 50)
    assert len(set(run.tasks[before:])) <= 4


async def test_tasks_are_kept_for_what_comes_next_until_it_is_closed() -> None:
    """What comes one by one is run by one task, also after a handler in it has waited; closed, none is left."""
    run = Run()

    async def quick() -> None: ...

    async def slow() -> None:
        await asyncio.sleep(0)

    for number, work in enumerate((quick, slow, quick, slow), start=1):
        run.workers.put(work)
        await run.until_done(number)
        await asyncio.sleep(0)
    assert len(set(run.tasks)) == 1
    await run.workers.aclose()
    assert all(task.done() for task in run.tasks)


async def test_cancelled_while_idle_a_task_is_not_counted_on() -> None:
    """Whoever cancels all tasks of the loop leaves workers that still run what is put in."""
    run = Run()

    async def quick() -> None: ...

    run.workers.put(quick)
    await run.until_done(1)
    await asyncio.sleep(0)
    run.tasks[0].cancel()
    run.workers.put(quick)
    await run.until_done(2)
    assert run.tasks[0] is not run.tasks[1]


async def test_each_begins_in_its_own_context() -> None:
    """What ``begin`` sets for a thing is there when it runs, also in a task that ran others before, and gone when none runs."""
    current: ContextVar[object] = ContextVar("current", default=None)
    seen: list[tuple[object, object]] = []
    done = asyncio.Event()

    async def work(thing: int, task: asyncio.Task[None]) -> None:
        if thing % 2:
            await asyncio.sleep(0)
        seen.append((thing, current.get()))
        if len(seen) == 6:
            done.set()

    workers: Workers[int] = Workers(work, "test", begin=current.set)
    for number in range(6):
        workers.put(number)
    async with asyncio.timeout(5):
        await done.wait()
    assert sorted(seen) == [(number, number) for number in range(6)]
    await workers.aclose()


async def test_cancelling_hits_only_its_own() -> None:
    """What ran before in the same task and what comes after it know nothing of it."""
    run = Run()
    ended: list[str] = []

    async def quick() -> None:
        ended.append("quick")

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")

    for work in (quick, slow, quick):
        run.workers.put(work)
    async with asyncio.timeout(5):
        while len(run.tasks) < 3:
            await asyncio.sleep(0)
    run.tasks[1].cancel()
    await run.until_done(3)
    assert ended == ["quick", "quick", "cancelled"]


async def test_a_time_out_inside_works() -> None:
    """asyncio.timeout cancels the handler that it is in, also when others shared its task before."""
    run = Run()
    ended: list[str] = []

    async def quick() -> None:
        ended.append("quick")

    async def limited() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            ended.append("timed out")

    for work in (quick, limited, quick):
        run.workers.put(work)
    await run.until_done(3)
    assert ended == ["quick", "quick", "timed out"]


async def test_what_is_left_in_the_context_is_not_seen_by_the_next() -> None:
    """A handler that sets a context variable and does not take it back costs its task, not its neighbour."""
    run = Run()
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []

    async def set_it() -> None:
        seen.append(who.get())
        who.set("somebody")

    for _ in range(3):
        run.workers.put(set_it)
    await run.until_done(3)
    assert seen == ["nobody"] * 3


async def test_one_that_raises_does_not_take_the_rest_along() -> None:
    """What comes after it runs; the error reaches the loop's handler."""
    run = Run()
    errors: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    ended: list[str] = []

    async def bad() -> None:
        raise RuntimeError("broken")

    async def good() -> None:
        ended.append("good")

    run.workers.put(bad)
    run.workers.put(good)
    await run.until_done(2)
    assert ended == ["good"]
    run.tasks.clear()
    async with asyncio.timeout(5):
        while not errors:
            gc.collect()
            await asyncio.sleep(0)
    assert [str(error) for error in errors] == ["broken"]


async def test_much_small_work_does_not_hold_the_loop() -> None:
    """A turn ends after a millisecond of work; what is left goes on in the next."""
    run = Run()
    clock = asyncio.get_running_loop().time
    turns = 0

    async def burn() -> None:
        until = clock() + TURN / 4
        while clock() < until:
            pass

    for _ in range(40):
        run.workers.put(burn)
    async with asyncio.timeout(5):
        while run.done < 40:
            turns += 1
            await asyncio.sleep(0)
    assert turns > 5
