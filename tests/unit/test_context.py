"""What a handler knows of its call follows its task, and no other."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fabric.context import CallContext, current_call, enter
from fabric.wire.message import Priority


def call(id: str) -> CallContext:
    return CallContext(
        id=id, source="checkout", instance="checkout-1", method="send", deadline=10.0, attempt=1, priority=Priority.NORMAL
    )


def test_outside_a_handler_there_is_none() -> None:
    """Code that no call runs has no call."""
    assert current_call() is None


async def test_nested_tasks_inherit_it() -> None:
    """M20 (MassTransit#6158): tasks and timers that a handler starts know its deadline, however deep."""
    seen: list[str | None] = []

    def note() -> None:
        found = current_call()
        seen.append(found.id if found else None)

    async def inner() -> None:
        note()
        await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(note))

    async def handler() -> None:
        enter(call("7"))
        asyncio.get_running_loop().call_soon(note)
        await asyncio.gather(inner(), inner())

    await asyncio.create_task(handler())
    assert seen == ["7"] * 5


async def test_handlers_at_once_do_not_mix() -> None:
    """A hundred handlers that run at once see each its own call, before and after every await."""

    async def handler(number: int) -> None:
        enter(call(str(number)))
        for _ in range(5):
            await asyncio.sleep(0)
            found = current_call()
            assert found is not None
            assert found.id == str(number)

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(handler(number))
    assert current_call() is None


async def test_it_does_not_leak_into_other_threads() -> None:
    """A thread that the handler did not start through asyncio has no call."""
    found: list[object] = []

    async def handler() -> None:
        enter(call("7"))
        thread = threading.Thread(target=lambda: found.append(current_call()))
        thread.start()
        thread.join(10)

    await asyncio.create_task(handler())
    assert found == [None]


def test_it_cannot_be_changed() -> None:
    """A handler can't move its own deadline."""
    with pytest.raises(AttributeError):
        call("7").deadline = 99.0  # type: ignore[misc]
