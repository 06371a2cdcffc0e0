"""Being told to stop, once and twice."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from fabric.cli.told import Told


async def forever() -> int:
    await asyncio.Event().wait()
    return 1


async def soon() -> int:
    await asyncio.sleep(0)
    return 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_first_signal_ends_what_waits(number: signal.Signals) -> None:
    """Ctrl-C, a SIGTERM and a lost terminal end work that can be given up, and later such work is not begun in earnest."""
    async with Told() as told, asyncio.timeout(20):
        assert await told.unless(soon()) == 1
        waiting = asyncio.create_task(told.unless(forever()))
        os.kill(os.getpid(), number)
        assert await waiting is None
        assert told.to_stop
        assert await told.unless(forever()) is None


async def test_the_second_signal_hurries() -> None:
    """Work that the first Ctrl-C asks for goes on until the second, which is also told to those who want to know."""
    hurried: list[None] = []
    async with Told() as told, asyncio.timeout(20):
        told.in_haste(lambda: hurried.append(None))
        os.kill(os.getpid(), signal.SIGINT)
        assert await told.unless_in_haste(soon()) == 1
        assert hurried == []
        stopping = asyncio.create_task(told.unless_in_haste(forever()))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert await stopping is None
        assert hurried == [None]


async def test_errors_come_through() -> None:
    """An error of the work is raised, not swallowed."""

    async def fail() -> int:
        raise ValueError("no")

    async with Told() as told:
        with pytest.raises(ValueError, match="no"):
            await told.unless(fail())
