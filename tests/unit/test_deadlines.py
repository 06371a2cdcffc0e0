"""Many timers on one of the loop's."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from fabric.deadlines import TICK, Deadlines


async def told(expected: int, seen: list[str]) -> None:
    async with asyncio.timeout(5):
        while len(seen) < expected:
            await asyncio.sleep(TICK)


async def test_each_is_told_once_and_never_too_early() -> None:
    """In order of their ticks, whatever the order in which they were added."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    early: list[str] = []
    at = {"c": loop.time() + 0.06, "a": loop.time() + 0.02, "b": loop.time() + 0.04}

    def due(name: str) -> None:
        seen.append(name)
        if loop.time() < at[name]:
            early.append(name)

    deadlines: Deadlines[str] = Deadlines(due)
    for name, when in at.items():
        deadlines.add(name, when)
    await told(3, seen)
    assert (seen, early, len(deadlines)) == (["a", "b", "c"], [], 0)


async def test_what_is_removed_is_not_told() -> None:
    """Removing twice, or what was due already, does nothing."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    deadlines: Deadlines[str] = Deadlines(seen.append)
    soon, later = loop.time() + 0.01, loop.time() + 0.03
    deadlines.add("gone", soon)
    deadlines.add("stays", later)
    deadlines.remove("gone", soon)
    deadlines.remove("gone", soon)
    await told(1, seen)
    deadlines.remove("stays", later)
    assert seen == ["stays"]


async def test_an_earlier_one_does_not_wait_for_a_later_one() -> None:
    """The loop's timer is set back when something nearer is added."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    deadlines: Deadlines[str] = Deadlines(seen.append)
    deadlines.add("far", loop.time() + 3600)
    deadlines.add("near", loop.time() + 0.01)
    await told(1, seen)
    assert seen == ["near"]
    deadlines.close()
    assert len(deadlines) == 0


async def test_what_is_due_may_add_and_remove() -> None:
    """Telling one changes the others without harm."""
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    deadlines: Deadlines[str] = Deadlines(lambda name: due(name))

    def due(name: str) -> None:
        seen.append(name)
        if name == "first":
            deadlines.add("second", loop.time())

    deadlines.add("first", loop.time() - 1)
    await told(2, seen)
    assert seen == ["first", "second"]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=60))
def test_the_count_is_that_of_a_model(steps: list[tuple[int, bool]]) -> None:
    """Adding and removing in any order leaves exactly what a plain set would hold."""

    async def run() -> None:
        base = asyncio.get_running_loop().time() + 100
        deadlines: Deadlines[int] = Deadlines(lambda _: None)
        model: set[int] = set()
        for number, add in steps:
            if add:
                deadlines.add(number, base + number)
                model.add(number)
            else:
                deadlines.remove(number, base + number)
                model.discard(number)
        assert len(deadlines) == len(model)
        deadlines.close()

    asyncio.run(run())
