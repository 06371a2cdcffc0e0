"""The journals, each by the same rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fabric.clock import SystemClock
from fabric.coordination.journal import Journal
from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.journal_records import Ledger
from fabric.coordination.journal_sqlite import SqliteJournal
from fabric.errors import ConfigurationError, StaleCommand, StartupError
from fabric.startup.definition import ServiceDefinition
from fabric.startup.events import CancelRequested, RunRequested

Make = Callable[[], Journal]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes coordinators' accesses to one journal."""
    log: list[bytes] = []
    if request.param == "memory":
        return lambda: MemoryJournal(log)
    return lambda: SqliteJournal(tmp_path / "journal")


def cancelled(reason: str) -> CancelRequested:
    return CancelRequested(reason=reason)


async def test_a_successor_reads_all_in_order_under_a_higher_epoch(make: Make) -> None:
    """S2: events come back as they were, with their times; a run with its whole fleet, too."""
    first, second = make(), make()
    await first.open()
    await second.open()
    assert await second.leader() is None
    began = await first.claim("coordinator-1", 1)
    assert began.entries == ()
    run = RunRequested(run="r", services=(ServiceDefinition(name="a"), ServiceDefinition(name="b", dependencies=("a",))))
    await first.append([(run, 1.0)])
    await first.append([(cancelled("x"), 2.0), (cancelled("y"), 2.5)])
    assert await second.leader() == began.claim
    history = await second.claim("coordinator-2", 7)
    assert history.entries == ((run, 1.0), (cancelled("x"), 2.0), (cancelled("y"), 2.5))
    assert history.claim.epoch > began.claim.epoch
    assert (history.claim.instance, history.claim.incarnation) == ("coordinator-2", 7)
    await first.aclose()
    await second.aclose()


async def test_who_was_succeeded_is_refused_and_leaves_no_trace(make: Make) -> None:
    """S2, S18: two that both believe they lead; only what the newer one writes is read by the third."""
    old, new, third = make(), make(), make()
    for journal in (old, new, third):
        await journal.open()
    claim = (await old.claim("coordinator-1", 1)).claim
    taken = (await new.claim("coordinator-2", 1)).claim
    with pytest.raises(StaleCommand) as refused:
        await old.append([(cancelled("old"), 1.0)])
    assert (refused.value.epoch, refused.value.highest) == (claim.epoch, taken.epoch)
    await new.append([(cancelled("new"), 2.0)])
    assert (await third.claim("coordinator-3", 1)).entries == ((cancelled("new"), 2.0),)
    for journal in (old, new, third):
        await journal.aclose()


async def test_a_history_that_begins_anew_drops_what_was_before(make: Make) -> None:
    """The journal is as long as the last history, and epochs go on."""
    first, second = make(), make()
    await first.open()
    claim = (await first.claim("coordinator-1", 1)).claim
    await first.append([(cancelled("old"), 1.0)])
    await first.append([(cancelled("new"), 2.0)], first=True)
    await second.open()
    history = await second.claim("coordinator-1", 2)
    assert history.entries == ((cancelled("new"), 2.0),)
    assert history.claim.epoch > claim.epoch
    await first.aclose()
    await second.aclose()


async def test_another_life_of_the_broker_has_no_history_and_higher_epochs(tmp_path: Path) -> None:
    """A fleet that is started afresh takes over nothing, and no process that was left over obeys the old coordinator."""
    path = tmp_path / "journal"
    before, after = SqliteJournal(path, life="one"), SqliteJournal(path, life="two")
    await before.open()
    claim = (await before.claim("coordinator-1", 1)).claim
    await before.append([(cancelled("old"), 1.0)])
    await before.aclose()
    await after.open()
    assert await after.leader() is None
    history = await after.claim("coordinator-1", 2)
    assert history.entries == ()
    assert history.claim.epoch > claim.epoch
    await after.aclose()


async def test_a_lost_journal_is_followed_by_one_with_higher_epochs() -> None:
    """Agents that outlived it obey the new leader: epochs begin with the time of the first claim."""
    old = await MemoryJournal(clock=SystemClock()).claim("coordinator-1", 1)
    new = await MemoryJournal(clock=SystemClock()).claim("coordinator-1", 2)
    assert new.claim.epoch > old.claim.epoch


async def test_a_file_that_is_no_journal_is_said_to_be_none(tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "journal"
    path.write_text("nothing of the kind, and long enough to look like a file of another program" * 20)
    journal = SqliteJournal(path)
    with pytest.raises(ConfigurationError, match=str(path)):
        await journal.open()
    await journal.aclose()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"claim": {"instance": 1}}', b"\xff", b'{"epoch": 1, "first": false}'])
def test_a_record_of_another_kind_is_refused(body: bytes) -> None:
    """Nothing of a stranger's record is replayed, and the error says what to do."""
    ledger = Ledger(base=0)
    ledger.take(0, b'{"claim": {"instance": "c", "incarnation": 1, "base": 1}}')
    with pytest.raises(StartupError, match="delete the journal"):
        ledger.take(1, body)
