"""Many timers on one of the loop's."""

from __future__ import annotations

import asyncio
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from fabric.deadlines import TICK, Deadlines, Lookout


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


class Thing:
    """Something that is due."""

    def __init__(self, name: str, due: float) -> None:
        self.name, self.due = name, due


class Shelf:
    """What a lookout looks through, and what it has told."""

    def __init__(self) -> None:
        self.things: dict[str, Thing] = {}
        self.seen: list[str] = []
        self.lookout: Lookout[Thing] = Lookout(self.things, self._due)

    def put(self, name: str, after: float) -> float:
        """Put in what is due so many seconds from now; returns when that is."""
        due = asyncio.get_running_loop().time() + after
        self.things[name] = Thing(name, due)
        if due < self.lookout.next:
            self.lookout.expect(due)
        return due

    def _due(self, thing: Thing) -> None:
        self.seen.append(thing.name)
        assert thing.due == inf


async def test_a_lookout_tells_what_is_still_there_once_and_never_too_early() -> None:
    """Also what stays after it was told; what was taken out in time is not told, and nobody has to say that it was."""
    shelf = Shelf()
    loop = asyncio.get_running_loop()
    last = shelf.put("late", 0.06)
    shelf.put("gone", 0.02)
    shelf.put("soon", 0.02)
    shelf.put("far", 3600.0)
    del shelf.things["gone"]
    await told(2, shelf.seen)
    assert loop.time() >= last
    assert shelf.seen == ["soon", "late"]
    assert shelf.lookout.next > loop.time() + 3000, "it sleeps until there is something to see"
    await asyncio.sleep(2 * TICK)
    assert len(shelf.seen) == 2


async def test_a_lookout_does_not_look_before_it_must() -> None:
    """Later deadlines do not move it, nearer ones do, and after its end none does."""
    shelf = Shelf()
    first = shelf.put("a", 1000.0)
    shelf.put("b", 2000.0)
    assert shelf.lookout.next == first
    nearer = shelf.put("c", 500.0)
    assert shelf.lookout.next == nearer
    shelf.lookout.close()
    shelf.put("d", 0.0)
    await asyncio.sleep(2 * TICK)
    assert shelf.seen == []


async def test_what_a_lookout_tells_may_change_what_is_there() -> None:
    """What is put in meanwhile, even if it is overdue already, is told in a later look."""
    things: dict[str, Thing] = {}
    seen: list[str] = []

    def due(thing: Thing) -> None:
        seen.append(thing.name)
        things.clear()
        for name in ("x", "y"):
            things[name] = Thing(name, 0.0 if name == "x" else inf)

    lookout: Lookout[Thing] = Lookout(things, due)
    now = asyncio.get_running_loop().time()
    things["one"] = Thing("one", now)
    lookout.expect(now)
    await told(2, seen)
    assert seen[:2] == ["one", "x"]
    lookout.close()
