"""What the journal gets to see of a run, and that it is enough."""

from __future__ import annotations

import random

import pytest

from fabric.coordination.journal import Entry
from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.journal_records import Ledger
from fabric.coordination.journal_writer import JournalWriter
from fabric.errors import FabricError, StaleCommand
from fabric.health import HealthStatus
from fabric.startup.definition import ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.events import (
    Event,
    InstanceJoined,
    InstanceLost,
    LeadershipTaken,
    Outcome,
    ProcessExited,
    RunRequested,
    ServiceStarted,
    ServiceStopped,
    ShutdownRequested,
    TimerDue,
    Vote,
)

YES, NO = HealthStatus.YES, HealthStatus.NO
VALID = 10.0


class Book:
    """An engine whose events go through the writer first, as the orchestrator does it."""

    def __init__(self, *services: str) -> None:
        self.log: list[bytes] = []
        self.journal = MemoryJournal(self.log)
        self.engine = Engine()
        self.failures: list[FabricError] = []
        self.writer = JournalWriter(self.journal, lambda: self.engine, self.failures.append)
        self.services = services
        self.now = 0.0
        self.sequence = 0
        self.waiting: list[Entry] = []
        self.gathers = False

    async def tell(self, event: Event) -> None:
        self.waiting.append((event, self.now))
        if not self.gathers:
            await self.flush()

    async def flush(self) -> None:
        entries, self.waiting = self.waiting, []
        if entries:
            await self.writer.append(entries)
        for event, at in entries:
            self.engine.handle(event, at)

    async def lead(self) -> None:
        claim = (await self.journal.claim("coordinator-1", 1)).claim
        await self.tell(LeadershipTaken(epoch=claim.epoch))

    async def ask(self, run: str = "run-1") -> None:
        definitions = tuple(ServiceDefinition(name=name, timeout=30.0, critical=True) for name in self.services)
        await self.tell(RunRequested(run=run, services=definitions))

    async def vote(self, service: str, status: HealthStatus = YES, *, incarnation: int = 1) -> None:
        self.sequence += 1
        await self.tell(
            Vote(
                service=service,
                instance=f"{service}-1",
                status=status,
                sequence=self.sequence,
                incarnation=incarnation,
                epoch=self.engine.epoch,
                expires_at=self.now + VALID,
            )
        )

    async def start(self, service: str, *, attempt: int = 1, incarnation: int = 1) -> None:
        self.sequence += 1
        facts = {"service": service, "instance": f"{service}-1", "incarnation": incarnation, "epoch": self.engine.epoch}
        await self.tell(InstanceJoined(sequence=self.sequence, **facts))  # type: ignore[arg-type]
        self.sequence += 1
        await self.tell(ServiceStarted(sequence=self.sequence, attempt=attempt, **facts))  # type: ignore[arg-type]

    async def up(self) -> None:
        """At rest: every service of a finished run is ready."""
        await self.lead()
        await self.ask()
        for service in self.services:
            await self.start(service)
            await self.vote(service)
        assert self.engine.outcome is Outcome.SUCCEEDED

    def entries(self) -> tuple[Entry, ...]:
        ledger = Ledger()
        for offset, body in enumerate(self.log):
            ledger.take(offset, body)
        return ledger.entries()

    def written(self) -> list[str]:
        return [type(event).__name__ for event, _ in self.entries()]


def state(engine: Engine) -> object:
    """All that a successor takes over."""
    places = {
        (name, place.id): (place.phase, place.status, place.expires_at, place.sequence, place.incarnation, place.ready_since)
        for name, record in engine.services.items()
        for place in record.instances.values()
    }
    return engine.outcome, engine.run, {name: record.state for name, record in engine.services.items()}, places


async def test_nothing_is_written_before_the_first_run() -> None:
    """Who joins an idle coordinator is asked again by its successor, so the journal stays empty."""
    book = Book("db")
    await book.lead()
    await book.start("db")
    await book.vote("db")
    assert book.entries() == ()


async def test_a_history_begins_with_the_epoch_of_its_leader() -> None:
    """The votes of a run count for the epoch in which they were cast: a replay has to know it. So it is after a stop; a run that
    takes over what runs goes on with the same history."""
    book = Book("db")
    await book.up()
    assert book.entries()[0][0] == LeadershipTaken(epoch=book.engine.epoch)
    await book.ask("run-2")
    assert book.written()[:2] == ["LeadershipTaken", "RunRequested"]
    assert book.written()[-1] == "RunRequested"
    await book.tell(ShutdownRequested())
    await book.tell(ServiceStopped(service="db", instance="db-1", sequence=99, incarnation=1, attempt=9, epoch=book.engine.epoch))
    assert book.engine.outcome is Outcome.STOPPED
    await book.ask("run-3")
    assert book.written() == ["LeadershipTaken", "RunRequested"]


async def test_every_vote_of_a_run_under_way_is_written() -> None:
    """Each may be the one that opens a gate; those of services that are no part of it can't be."""
    book = Book("db", "web")
    await book.lead()
    await book.ask()
    await book.start("db")
    for _ in range(3):
        await book.vote("db")
    await book.vote("stranger")
    assert book.written().count("Vote") == 3


async def test_a_fleet_at_rest_writes_nothing_and_its_newest_votes_come_with_the_next_change() -> None:
    """A yes after a yes is held back, one of each instance, and written in front of what changes something."""
    book = Book("db", "web")
    await book.up()
    before = len(book.log)
    for _ in range(50):
        book.now += 2.0
        await book.vote("db")
        await book.vote("web")
        await book.tell(TimerDue())
    assert len(book.log) == before
    book.now += 1.0
    await book.vote("web", NO)
    assert len(book.log) == before + 1
    held = [(event.service, event.status, at) for event, at in book.entries()[-3:] if isinstance(event, Vote)]
    assert held == [("db", YES, 100.0), ("web", YES, 100.0), ("web", NO, 101.0)]


@pytest.mark.parametrize("change", ["no", "reborn", "lost", "expired", "exited"])
async def test_what_ends_a_rest_is_written_at_once(change: str) -> None:
    """S12: a no, another incarnation, a loss, a yes that was not renewed: the successor must know."""
    book = Book("db")
    await book.up()
    before = len(book.log)
    match change:
        case "no":
            await book.vote("db", NO)
        case "reborn":
            await book.vote("db", incarnation=2)
        case "lost":
            await book.tell(InstanceLost(service="db", instance="db-1", reason="gone", incarnation=1))
        case "expired":
            book.now += VALID + 1.0
            await book.tell(TimerDue())
        case _:
            await book.tell(ProcessExited(service="db", instance="db-1", code=1))
    assert len(book.log) == before + 1


async def test_a_journal_that_refuses_is_told_of_and_the_event_is_not_handled() -> None:
    """S2: an old leader learns from its journal that it leads no more, before it could act on what it heard."""
    book = Book("db")
    await book.up()
    await MemoryJournal(book.log).claim("coordinator-2", 1)
    before = state(book.engine)
    with pytest.raises(StaleCommand):
        await book.vote("db", NO)
    assert [type(failure) for failure in book.failures] == [StaleCommand]
    assert state(book.engine) == before


@pytest.mark.parametrize("seed", range(50))
async def test_the_replay_ends_where_the_run_is(seed: int) -> None:
    """S2: over random histories, whose events are written alone or together, whatever was left out of the journal: an engine that
    replays it and then hears the next event is in the state of the engine that heard everything."""
    chance = random.Random(seed)
    book = Book("db", "web", "mail")
    await book.up()
    for _ in range(120):
        book.gathers = chance.random() < 0.5
        book.now += chance.choice([0.0, 0.5, 2.0, 2.0, 2.0, VALID + 1.0])
        service = chance.choice(book.services)
        match chance.choices(["yes", "due", "no", "lost", "start", "ask"], [60, 25, 4, 2, 6, 1])[0]:
            case "yes":
                await book.vote(service)
            case "due":
                await book.tell(TimerDue())
            case "no":
                await book.vote(service, NO)
            case "lost":
                await book.tell(InstanceLost(service=service, instance=f"{service}-1", reason="gone"))
            case "start":
                await book.start(service, attempt=book.engine.services[service].attempt, incarnation=chance.choice([1, 1, 2, 3]))
            case _:
                await book.ask(f"run-{book.now}")
    book.gathers = False
    await book.vote("db", NO)
    replayed = Engine()
    for event, at in book.entries():
        replayed.handle(event, at)
    assert state(replayed) == state(book.engine)
    assert len(book.entries()) < book.sequence + 120
