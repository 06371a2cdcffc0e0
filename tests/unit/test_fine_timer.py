"""A timer of less than a millisecond's error."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from fabric import fine_timer
from fabric.fine_timer import FineTimer

LIMIT = 10.0


class Bell:
    """Notes when it was rung."""

    def __init__(self) -> None:
        self.rung: list[float] = []
        self.timer = FineTimer(self.ring)
        self._once = asyncio.Event()

    def ring(self) -> None:
        self.rung.append(monotonic())
        self._once.set()

    async def wait(self) -> None:
        async with asyncio.timeout(LIMIT):
            await self._once.wait()
        self._once.clear()


@pytest.fixture(params=["the kernel's", "the loop's"])
async def bell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bell]:
    if request.param == "the loop's":
        monkeypatch.setattr(fine_timer, "_timerfd", lambda libc: -1)
    bell = Bell()
    yield bell
    bell.timer.close()


async def test_it_rings_once_and_not_before_its_time(bell: Bell) -> None:
    for number, seconds in enumerate((0.0005, 0.002, 0.0), 1):
        due = monotonic() + seconds
        bell.timer.set(seconds)
        await bell.wait()
        await asyncio.sleep(0.01)
        assert len(bell.rung) == number
        assert bell.rung[-1] >= due - 0.0011, "at most a step of the loop's clock too early"


async def test_setting_it_anew_takes_back_what_was_set_before(bell: Bell) -> None:
    bell.timer.set(0.002)
    due = monotonic() + 0.03
    bell.timer.set(0.03)
    await bell.wait()
    assert len(bell.rung) == 1
    assert bell.rung[0] >= due - 0.0011
    bell.timer.set(10_000.0)
    bell.timer.set(0.001)
    await bell.wait()
    assert len(bell.rung) == 2


async def test_ringing_may_set_it_again() -> None:
    times: list[float] = []
    done = asyncio.Event()

    def ring() -> None:
        times.append(monotonic())
        if len(times) < 5:
            timer.set(0.0003)
        else:
            done.set()

    timer = FineTimer(ring)
    timer.set(0.0003)
    async with asyncio.timeout(LIMIT):
        await done.wait()
    timer.close()
    assert len(times) == 5


async def test_closed_it_is_silent_and_holds_nothing(bell: Bell) -> None:
    bell.timer.set(0.001)
    file = bell.timer._file
    bell.timer.close()
    bell.timer.close()
    await asyncio.sleep(0.01)
    assert bell.rung == []
    if file >= 0:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)
