"""What waits for a free place, against a simple model."""

from __future__ import annotations

import random
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fabric.routing.limits import FLOOR, WEIGHTS, PriorityQueue
from fabric.wire.message import Priority

PRIORITIES = st.sampled_from(Priority)


class QueueMachine(RuleBasedStateMachine):
    """The model is a list of everything that waits, in order of arrival."""

    @initialize(limit=st.integers(0, 12))
    def begin(self, limit: int) -> None:
        self.queue: PriorityQueue[int] = PriorityQueue(limit)
        self.limit = limit
        self.waiting: list[tuple[Priority, int]] = []
        self.numbers = count()
        self.takes = 0

    @rule(priority=PRIORITIES)
    def put(self, priority: Priority) -> None:
        item = next(self.numbers)
        shed = self.queue.put(priority, item)
        if len(self.waiting) < self.limit:
            assert shed is None
            self.waiting.append((priority, item))
            return
        lowest = min((rank for rank, _ in self.waiting), default=priority)
        if lowest >= priority:
            assert shed == item, "nothing lower waits, so it is itself refused"
            return
        newest = max(number for rank, number in self.waiting if rank == lowest)
        assert shed == newest
        self.waiting.remove((lowest, newest))
        self.waiting.append((priority, item))

    @rule()
    def take(self) -> None:
        taken = self.queue.take()
        if not self.waiting:
            assert taken is None
            return
        self.takes += 1
        found = next(entry for entry in self.waiting if entry[1] == taken)
        ranks = {rank for rank, _ in self.waiting}
        if Priority.CRITICAL in ranks and (self.takes % FLOOR or ranks == {Priority.CRITICAL}):
            assert found[0] is Priority.CRITICAL, "critical goes first"
        elif len(ranks) > 1:
            assert found[0] is not Priority.CRITICAL, "the floor is for the others"
        assert found == next(entry for entry in self.waiting if entry[0] == found[0]), "first come, first served"
        self.waiting.remove(found)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([number for _, number in self.waiting] or [-1]) | st.just(-1))
        there = any(number == item for _, number in self.waiting)
        assert self.queue.remove(item) == there
        self.waiting = [entry for entry in self.waiting if entry[1] != item]

    @rule()
    def clear(self) -> None:
        ordered = sorted(self.waiting, key=lambda entry: -entry[0])
        assert self.queue.clear() == [number for _, number in ordered]
        self.waiting = []

    @invariant()
    def the_length_is_right(self) -> None:
        assert len(self.queue) == len(self.waiting) <= self.limit


QueueMachine.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=60)
TestAgainstTheModel = QueueMachine.TestCase


def filled(**amounts: int) -> PriorityQueue[tuple[Priority, int]]:
    """A queue with that many of each priority, in mixed order."""
    queue: PriorityQueue[tuple[Priority, int]] = PriorityQueue(100_000)
    items = [(Priority[name.upper()], number) for name, amount in amounts.items() for number in range(amount)]
    random.Random(1).shuffle(items)
    for priority, number in items:
        queue.put(priority, (priority, number))
    return queue


def test_a_critical_one_passes_ten_thousand_low_ones() -> None:
    """M12 (celery#8025): behind 10,000 low ones a critical one is next."""
    queue = filled(low=10_000)
    queue.put(Priority.CRITICAL, (Priority.CRITICAL, -1))
    assert queue.take() == (Priority.CRITICAL, -1)
    assert queue.take_critical() is None


def shares(queue: PriorityQueue[tuple[Priority, int]], starts: int) -> dict[Priority, int]:
    """How many of so many starts each class gets."""
    taken = [item[0] for item in (queue.take() for _ in range(starts)) if item is not None]
    return {priority: taken.count(priority) for priority in Priority}


def test_low_keeps_its_floor() -> None:
    """M12 (celery#5127): under a flood of critical ones exactly every sixteenth start is a low one."""
    queue = filled(low=1000, critical=10_000)
    taken = [queue.take() for _ in range(16 * 100)]
    low = [turn for turn, item in enumerate(taken, 1) if item is not None and item[0] is Priority.LOW]
    assert low == list(range(16, 16 * 100 + 1, 16))


@pytest.mark.parametrize("classes", [(0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_the_others_share_by_weight(classes: tuple[int, ...]) -> None:
    """M12 (celery#5127): whichever of low, normal and high wait, their starts are as their weights, to within 2 %."""
    queue = filled(**{Priority(rank).name.lower(): 10_000 for rank in classes})
    got = shares(queue, 6_000)
    total = sum(WEIGHTS[rank] for rank in classes)
    for rank in classes:
        assert got[Priority(rank)] == pytest.approx(6_000 * WEIGHTS[rank] / total, rel=0.02)


def test_under_a_flood_of_critical_ones_the_others_share_the_floor() -> None:
    """None of them waits for ever, and their shares of the floor are by weight."""
    got = shares(filled(low=1000, normal=1000, high=1000, critical=10_000), 16 * 130)
    assert got == {Priority.LOW: 10, Priority.NORMAL: 30, Priority.HIGH: 90, Priority.CRITICAL: 15 * 130}


def test_a_class_that_was_away_has_saved_nothing_up() -> None:
    """A low class that comes after a thousand starts of high ones gets its share from then on, and no burst."""
    queue = filled(high=5000)
    shares(queue, 1000)
    for number in range(500):
        queue.put(Priority.LOW, (Priority.LOW, number))
    got = shares(queue, 100)
    assert got[Priority.LOW] == pytest.approx(10, abs=1)


def test_a_class_that_comes_and_goes_does_not_starve_another() -> None:
    """Also when high ones come one at a time and always find the queue without one, low ones get theirs."""
    queue = filled(low=2000)
    taken = []
    for number in range(1000):
        queue.put(Priority.HIGH, (Priority.HIGH, number))
        taken += [item[0] for item in (queue.take(), queue.take()) if item is not None]
    assert taken.count(Priority.HIGH) >= 990
    assert taken.count(Priority.LOW) >= 990


@pytest.mark.parametrize("priority", Priority)
def test_shedding_takes_the_newest_of_the_lowest(priority: Priority) -> None:
    """Full, a higher one pushes out the newest low one, never an older or a higher one, and is refused when none is lower."""
    queue: PriorityQueue[str] = PriorityQueue(4)
    for item, rank in (("low old", 0), ("low new", 0), ("normal old", 1), ("normal new", 1)):
        assert queue.put(Priority(rank), item) is None
    pushed = [queue.put(priority, f"{priority} {n}") for n in range(5)]
    assert (
        pushed
        == {
            Priority.LOW: [f"0 {n}" for n in range(5)],
            Priority.NORMAL: ["low new", "low old", "1 2", "1 3", "1 4"],
            Priority.HIGH: ["low new", "low old", "normal new", "normal old", "2 4"],
            Priority.CRITICAL: ["low new", "low old", "normal new", "normal old", "3 4"],
        }[priority]
    )
    assert len(queue) == 4


def test_a_queue_without_room_refuses_everything() -> None:
    """A limit of zero means that nothing waits."""
    queue: PriorityQueue[int] = PriorityQueue(0)
    assert queue.put(Priority.CRITICAL, 1) == 1
    assert queue.take() is None
    assert queue.clear() == []


def test_many_that_give_up_are_no_burden() -> None:
    """M19 (moleculer#904): 20,000 cancelled at once leave one by one, each in the same time wherever it stands."""
    queue = filled(low=20_000)
    order = [(Priority.LOW, number) for number in range(20_000)]
    random.Random(2).shuffle(order)
    assert all(queue.remove(item) for item in order)
    assert len(queue) == 0
    assert not queue.remove(order[0])
    assert queue.take() is None
