"""Following the events: nothing missed, nothing twice, nothing out of order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from fabric import ServiceError
from services.todo.contracts import EventPage, NewEvent, RecordedEvent
from services.todo.follower import Follower
from tests.unit.services.test_aggregate import recorded


class Log:
    """A store of events, and whoever applies them; both can be made to fail."""

    def __init__(self, length: int) -> None:
        self.events = [recorded(NewEvent(type="x.happened", data={}), n + 1) for n in range(length)]
        self.applied: list[int] = []
        self.reads = 0
        self.broken = False

    async def read(self, after: int, limit: int) -> EventPage:
        self.reads += 1
        if self.broken:
            raise ServiceError("away")
        return EventPage(events=tuple(self.events[after : after + limit]), last=len(self.events))

    async def apply(self, events: Sequence[RecordedEvent], position: int) -> int:
        assert events[0].position == position + 1
        self.applied += [event.position for event in events]
        return events[-1].position


def _follower(log: Log) -> Follower:
    return Follower("test", log.read, log.apply, interval=3600)


@pytest.mark.parametrize("seed", range(20))
async def test_doubled_and_shuffled_events_are_applied_once_in_order(seed: int) -> None:
    """However the broker doubles, delays, drops and mixes them: each up to the last that came is applied once, in order."""
    log, chance = Log(50), random.Random(seed)
    follower = _follower(log)
    arriving = [event for event in log.events for _ in range(chance.randint(0, 3))] + [log.events[-1]]
    chance.shuffle(arriving)
    for event in arriving:
        await follower.take(event)
    assert log.applied == list(range(1, 51))


async def test_events_in_order_need_no_look_at_the_store() -> None:
    """The usual case costs nothing but the event itself."""
    log = Log(10)
    follower = _follower(log)
    for event in log.events:
        await follower.take(event)
    assert (log.reads, follower.position) == (0, 10)


async def test_an_event_that_can_not_be_applied_is_not_passed_over() -> None:
    """The position stays before it, and the next event brings both."""
    log = Log(2)
    follower = _follower(log)
    log.broken = True
    with pytest.raises(ServiceError):
        await follower.take(log.events[1])
    assert (log.applied, follower.position) == ([], 0)
    log.broken = False
    await follower.take(log.events[1])
    assert log.applied == [1, 2]


async def test_catching_up_reads_page_by_page() -> None:
    """More than a page is read to its end; from an earlier position it is read again."""
    log = Log(450)
    follower = _follower(log)
    await follower.catch_up()
    assert (follower.position, log.reads) == (450, 4)
    await follower.restart(440)
    await follower.catch_up()
    assert log.applied[450:] == list(range(441, 451))
