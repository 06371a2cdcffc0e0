"""Calls at their time, on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import random

import pytest

from fabric.transports.backoff import Backoff
from fabric.transports.timers import Timers
from tests.unit.transports.hand_clock import HandClock


async def test_order_of_time() -> None:
    """Calls come at their time and in its order, however they were asked for."""
    clock, calls = HandClock(), list[tuple[str, float]]()
    timers, start = Timers(clock), clock.monotonic()
    for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("now", 0.0)):
        timers.call_later(seconds, lambda name=name: calls.append((name, clock.monotonic() - start)))  # type: ignore[misc]
    await clock.advance(2.5)
    assert calls == [("now", 0.0), ("a", 1.0), ("b", 2.0)]
    await clock.advance(1)
    assert calls[-1] == ("c", 3.0)


async def test_call_from_a_call() -> None:
    """A call may ask for another one."""
    clock, calls = HandClock(), list[int]()
    timers = Timers(clock)
    timers.call_later(1, lambda: timers.call_later(1, lambda: calls.append(1)))
    await clock.advance(1.5)
    assert calls == []
    await clock.advance(1)
    assert calls == [1]


async def test_idle_has_no_task() -> None:
    """There is a task only while a call is to come, and closing ends it with all calls."""
    clock, calls = HandClock(), list[int]()
    timers, before = Timers(clock), asyncio.all_tasks()
    timers.call_later(1, lambda: calls.append(1))
    await clock.advance(2)
    assert asyncio.all_tasks() == before
    timers.call_later(1, lambda: calls.append(2))
    await timers.aclose()
    await timers.aclose()
    assert asyncio.all_tasks() == before
    await clock.advance(2)
    assert calls == [1]


def test_backoff() -> None:
    """M33 (aio-pika's fixed 5 s): waits double up to their bound and are spread over all of it."""
    backoff, chance = Backoff(first=0.1, most=5.0), random.Random(7)
    for attempt, bound in ((0, 0.1), (1, 0.2), (3, 0.8), (10, 5.0), (10_000, 5.0)):
        delays = [backoff.delay(attempt, chance) for _ in range(500)]
        assert 0 <= min(delays) < bound * 0.1
        assert bound * 0.9 < max(delays) <= bound


@pytest.mark.parametrize(("first", "most"), [(0, 1), (2, 1), (-1, 1)])
def test_backoff_that_can_not_be(first: float, most: float) -> None:
    """A back-off that would not wait is refused: it would be a hot loop."""
    with pytest.raises(ValueError):
        Backoff(first=first, most=most)
