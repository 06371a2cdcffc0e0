"""Background tasks have an owner: none outlives it, none fails unheard."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from fabric.tasks import Tasks


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_none_outlives_its_owner() -> None:
    """Closing cancels and awaits all that run, with their clean-up."""
    tasks = Tasks("owner")
    cleaned: list[int] = []

    async def work(number: int) -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    running = [tasks.start(work(number), "work") for number in range(5)]
    await asyncio.sleep(0)
    assert len(tasks) == 5
    await tasks.aclose()
    assert sorted(cleaned) == [0, 1, 2, 3, 4]
    assert all(task.cancelled() for task in running)
    assert len(tasks) == 0


async def test_a_task_that_did_not_begin_yet() -> None:
    """A task that is closed before its first step never runs, and its coroutine is not left behind."""
    tasks = Tasks("owner")
    begun: list[str] = []

    async def work() -> None:
        begun.append("begun")

    task = tasks.start(work(), "work")
    await tasks.aclose()
    assert task.cancelled()
    assert begun == []


async def test_closing_twice_and_empty() -> None:
    """Closing is idempotent, also when nothing ran."""
    tasks = Tasks("owner")
    await tasks.aclose()
    await tasks.aclose()
    assert len(tasks) == 0


async def test_nothing_starts_after_closing() -> None:
    """A late start is refused by the owner's name, and leaves no coroutine that nobody awaits."""
    tasks = Tasks("the hub")
    await tasks.aclose()
    with pytest.raises(RuntimeError, match="the hub is closed"):
        tasks.start(for_ever(), "late")
    gc.collect()  # an un-awaited coroutine would warn here, and warnings are errors


async def test_a_task_that_starts_another_while_closing() -> None:
    """What a task starts in its clean-up is refused, and closing still ends."""
    tasks = Tasks("owner")
    refused: list[str] = []

    async def stubborn() -> None:
        try:
            await for_ever()
        finally:
            try:
                tasks.start(for_ever(), "late")
            except RuntimeError as error:
                refused.append(str(error))

    tasks.start(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await tasks.aclose()
    assert refused == ["owner is closed"]


async def test_a_lost_cancellation_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """A task that swallows its first cancellation, as asyncio.wait_for can, is ended all the same, and named."""
    tasks = Tasks("owner", patience=0.01)
    cancelled = 0

    async def swallow() -> None:
        nonlocal cancelled
        while cancelled < 3:
            try:
                await for_ever()
            except asyncio.CancelledError:
                cancelled += 1

    tasks.start(swallow(), "deaf")
    await asyncio.sleep(0)
    await tasks.aclose()
    assert cancelled == 3
    assert "owner: deaf was cancelled and goes on" in caplog.text


async def test_one_of_them_may_close_its_owner() -> None:
    """A task that closes its own owner ends the others, is not waited for by itself, and goes on to its end."""
    tasks = Tasks("owner")
    other = tasks.start(for_ever(), "other")

    async def closer() -> str:
        await tasks.aclose()
        return "closed"

    assert await tasks.start(closer(), "closer") == "closed"
    assert other.cancelled()


async def test_a_failure_is_logged_with_its_owner(caplog: pytest.LogCaptureFixture) -> None:
    """An error that nobody awaits is in the log with owner, task and traceback, and the others run on."""
    tasks = Tasks("the hub")

    async def work() -> None:
        raise KeyError("broken")

    failed, other = tasks.start(work(), "work"), tasks.start(for_ever(), "other")
    await asyncio.wait([failed])
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "the hub: work failed: KeyError('broken')"
    assert record.exc_info is not None
    assert not other.done()
    await tasks.aclose()


async def test_a_failure_in_the_clean_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Closing neither raises nor hides what a task raises on its way out."""
    tasks = Tasks("owner")

    async def work() -> None:
        try:
            await for_ever()
        finally:
            raise ValueError("on the way out")

    tasks.start(work(), "work")
    await asyncio.sleep(0)
    await tasks.aclose()
    assert "on the way out" in caplog.text


async def test_waiting_for_the_end() -> None:
    """Waiting is over when the last has ended, those included that were started meanwhile."""
    tasks = Tasks("owner")
    ended: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        ended.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        tasks.start(second(), "second")
        ended.append("first")

    tasks.start(first(), "first")
    assert await tasks.wait(30.0)
    assert ended == ["first", "second"]
    assert await tasks.wait(0.0), "nothing runs"


async def test_waiting_has_an_end() -> None:
    """What does not end in time is left running, and the answer says so."""
    tasks = Tasks("owner")
    task = tasks.start(for_ever(), "work")
    assert not await tasks.wait(0.01)
    assert not await tasks.wait(0.0)
    assert not task.done()
    await tasks.aclose()


async def test_one_of_them_may_wait_for_the_others() -> None:
    """A task that waits for the end of all does not wait for itself."""
    tasks = Tasks("owner")

    async def work() -> None:
        await asyncio.sleep(0)

    async def waiter() -> bool:
        return await tasks.wait(30.0)

    tasks.start(work(), "work")
    assert await tasks.start(waiter(), "waiter")


async def test_names_are_for_people() -> None:
    """A task's name says whose it is, for debuggers and logs."""
    tasks = Tasks("the hub")
    task = tasks.start(for_ever(), "heartbeats")
    assert task.get_name() == "the hub: heartbeats"
    await tasks.aclose()
