"""The orchestrator: engine, clock, journal and participants together, on a virtual clock."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from fabric.clock import VirtualClock
from fabric.errors import DependencyCycle, FabricError, NotSent, StartupError
from fabric.health import HealthStatus
from fabric.startup.default_fleet import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
from fabric.startup.definition import ServiceDefinition
from fabric.startup.events import (
    Command,
    CommandKind,
    Event,
    Outcome,
    Progress,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    Vote,
)
from fabric.startup.orchestrator import StartupOrchestrator
from fabric.startup.participants import Receive
from tests.unit.startup.fleets import service, stage


class Fleet:
    """Participants in this process: each command becomes a task that sleeps and reports.

    ``broken`` services raise, ``unreachable`` ones can't be commanded, ``hanging`` ones never answer.
    """

    def __init__(self, clock: VirtualClock, *, seconds: float = 1.0) -> None:
        self.clock, self.seconds = clock, seconds
        self.broken: set[str] = set()
        self.unreachable: set[str] = set()
        self.hanging: set[str] = set()
        self.commands: list[Command] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.receive: Receive | None = None
        self.numbers: dict[str, int] = {}
        self.started: dict[tuple[str, str, int], Event] = {}

    def listen(self, receive: Receive) -> Callable[[], None]:
        self.receive = receive

        def stop() -> None:
            self.receive = None

        return stop

    async def send(self, command: Command) -> None:
        self.commands.append(command)
        if command.service in self.unreachable:
            raise NotSent("the broker is away")
        if command.service not in self.hanging:
            task = asyncio.get_running_loop().create_task(self.obey(command))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def obey(self, command: Command) -> None:
        if command.kind is CommandKind.START:
            key = (command.run, command.service, command.attempt)
            if key in self.started and command.service in self.broken:
                self.tell(ServiceFailed, command, reason="boom")
            elif key not in self.started:
                await self.clock.sleep(self.seconds)
                facts = {"reason": "boom"} if command.service in self.broken else {}
                self.started[key] = self.tell(ServiceFailed if facts else ServiceStarted, command, **facts)
            if command.service not in self.broken:
                self.vote(command.service, command.epoch)
        elif command.kind is CommandKind.STOP:
            self.tell(ServiceStopped, command)
        elif any(service == command.service for _, service, _ in self.started) and command.service not in self.broken:
            self.vote(command.service, command.epoch)

    def tell(self, kind: Any, command: Command, **more: Any) -> Event:
        event: Event = kind(
            service=command.service,
            instance=f"{command.service}#1",
            attempt=command.attempt,
            sequence=self.number(command.service),
            epoch=command.epoch,
            **more,
        )
        self.deliver(event)
        return event

    def vote(self, name: str, epoch: int, status: HealthStatus = HealthStatus.YES) -> None:
        number = self.number(name)
        vote = Vote(service=name, instance=f"{name}#1", status=status, sequence=number, epoch=epoch, expires_at=math.inf)
        self.deliver(vote)

    def number(self, name: str) -> int:
        self.numbers[name] = self.numbers.get(name, 0) + 1
        return self.numbers[name]

    def deliver(self, event: Event) -> None:
        if self.receive is not None:
            self.receive(event)


class ListJournal:
    """A journal in memory that can be made to fail."""

    def __init__(self) -> None:
        self.entries: list[tuple[Event, float]] = []
        self.broken = False

    async def append(self, entries: Sequence[tuple[Event, float]]) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise NotSent("the journal is away")
        self.entries.extend(entries)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def fleet(clock: VirtualClock) -> Fleet:
    return Fleet(clock)


def orchestrate(clock: VirtualClock, fleet: Fleet, *services: ServiceDefinition, **more: Any) -> StartupOrchestrator:
    return StartupOrchestrator({one.name: one for one in services}, fleet, clock=clock, **more)


async def test_default_fleet_comes_up(clock: VirtualClock, fleet: Fleet) -> None:
    """The default fleet starts through its four gates, and progress is told as it happens."""
    seen: list[Progress] = []
    async with StartupOrchestrator(SERVICE_DEPENDENCIES, fleet, clock=clock, watch=seen.append) as orchestrator:
        profile = await clock.run(orchestrator.startup(DEFAULT_STARTUP_STAGES))
        assert profile.ok
        assert profile.outcome is Outcome.SUCCEEDED
        assert profile.makespan == pytest.approx(8.0)
        assert [gate.opened for gate in profile.gates] == pytest.approx([1.0, 3.0, 5.0, 7.0])
        assert [one.name for one in seen if one.state == "open"] == [one.name for one in DEFAULT_STARTUP_STAGES]
        assert "its own start" in str(orchestrator.explain("rag-service"))
        await clock.run(orchestrator.shutdown())
    stops = [command.service for command in fleet.commands if command.kind is CommandKind.STOP]
    assert stops.index("cqrs-coordinator") < stops.index("event-store") < stops.index("prisma-service")


async def test_failed_run_returns_its_report(clock: VirtualClock, fleet: Fleet) -> None:
    """S3 (compose#9732): a run that fails returns a profile that says so and why, and raises only when asked."""
    fleet.broken.add("db")
    async with orchestrate(clock, fleet, service("db"), service("api", "db")) as orchestrator:
        profile = await clock.run(orchestrator.startup())
        assert not profile.ok
        assert profile.report is not None
        assert profile.report.roots[0].reason == "boom"


async def test_unreachable_service_is_told_apart(clock: VirtualClock, fleet: Fleet) -> None:
    """A command that can't be handed over fails the attempt at once, with that reason."""
    fleet.unreachable.add("db")
    async with orchestrate(clock, fleet, service("db")) as orchestrator:
        profile = await clock.run(orchestrator.startup())
        assert profile.report is not None
        assert profile.report.roots[0].cause == "unreachable"
        assert profile.makespan == 0.0


async def test_bad_stages_start_nothing(clock: VirtualClock, fleet: Fleet) -> None:
    """S8 (opentelemetry-demo#1583): stages that can't work raise before any command is sent."""
    async with orchestrate(clock, fleet, service("a"), service("b")) as orchestrator:
        with pytest.raises(DependencyCycle):
            await orchestrator.startup([stage("one", "a", required=["b"]), stage("two", "b")])
        assert fleet.commands == []
        assert (await clock.run(orchestrator.startup())).ok


async def test_shutdown_in_the_middle_ends_the_run(clock: VirtualClock, fleet: Fleet) -> None:
    """S15 (process-compose#145): a shutdown while services start stops them all, and startup returns."""
    fleet.hanging.add("api")

    async def scene() -> Outcome:
        run = asyncio.ensure_future(orchestrator.startup())
        await clock.sleep(2.0)
        fleet.hanging.clear()
        await orchestrator.shutdown()
        return (await run).outcome

    async with orchestrate(clock, fleet, service("db"), service("api", "db"), service("web", "api")) as orchestrator:
        assert await clock.run(scene()) is Outcome.STOPPED
        assert {record.state for record in orchestrator.engine.services.values()} == {"stopped"}


async def test_cancel_and_supersede(clock: VirtualClock, fleet: Fleet) -> None:
    """S14 (argo-cd#17314): a stuck run is superseded by the next, which can be cancelled; both startups return."""
    fleet.hanging.add("api")

    async def scene() -> list[Outcome]:
        first = asyncio.ensure_future(orchestrator.startup())
        await clock.sleep(2.0)
        second = asyncio.ensure_future(orchestrator.startup(run="second"))
        await clock.sleep(2.0)
        orchestrator.cancel()
        fleet.hanging.clear()
        outcomes = [(await first).outcome, (await second).outcome]
        again = await orchestrator.startup(run="second")
        return [*outcomes, again.outcome]

    async with orchestrate(clock, fleet, service("db"), service("api", "db")) as orchestrator:
        assert await clock.run(scene()) == [Outcome.SUPERSEDED, Outcome.CANCELLED, Outcome.CANCELLED]


@pytest.mark.parametrize("broken", [(), ("store",)])
async def test_s2_successor_goes_on_from_any_record(clock: VirtualClock, broken: tuple[str, ...]) -> None:
    """S2 (helm#11863, Marathon#4085): killed after any journal record, a successor reaches the same end; no attempt twice."""
    services = [service("db"), service("store", "db"), service("api", "store"), service("mail", critical=False)]
    stages = [stage("core", "db", "store", required=["store"]), stage("rest", "api", "mail")]

    async def whole() -> tuple[list[tuple[Event, float]], Outcome]:
        fleet, journal = Fleet(clock), ListJournal()
        fleet.broken.update(broken)
        async with orchestrate(clock, fleet, *services, journal=journal) as first:
            profile = await first.startup(stages, run="r")
        return journal.entries, profile.outcome

    entries, outcome = await clock.run(whole())

    async def taken_over(after: int) -> None:
        fleet, journal = Fleet(clock), ListJournal()
        fleet.broken.update(broken)

        class Killed(ListJournal):
            async def append(self, entries: Sequence[tuple[Event, float]]) -> None:
                for entry in entries:
                    if len(self.entries) == after:
                        raise NotSent("killed")
                    await super().append([entry])

        journal = Killed()
        first = orchestrate(clock, fleet, *services, journal=journal, epoch=1)
        with pytest.raises(FabricError):
            await first.startup(stages, run="r")
        await first.aclose()
        kept = list(journal.entries)
        second = orchestrate(clock, fleet, *services, journal=(later := ListJournal()), epoch=1)
        async with second:
            second.take_over(kept, epoch=2)
            profile = await second.startup(stages, run="r")
            assert profile.outcome is outcome, (after, profile.report)
        work = [(command.service, command.attempt) for command in fleet.commands if command.kind is CommandKind.START]
        assert {attempt for _, attempt in work} == {1}, "a repeat carries the same attempt, which agents answer from memory"
        assert later.entries

    for after in range(1, len(entries)):
        await clock.run(taken_over(after))


async def test_nothing_is_done_when_the_journal_fails(clock: VirtualClock, fleet: Fleet) -> None:
    """The journal comes before the deed: when it fails, no command is sent and startup raises."""
    journal = ListJournal()
    journal.broken = True
    async with orchestrate(clock, fleet, service("db"), journal=journal) as orchestrator:
        with pytest.raises(NotSent):
            await clock.run(orchestrator.startup())
        assert fleet.commands == []


async def test_close_ends_what_waits(clock: VirtualClock, fleet: Fleet) -> None:
    """``aclose`` may be called twice, leaves no task behind, and a waiting startup raises."""
    fleet.hanging.add("db")
    orchestrator = orchestrate(clock, fleet, service("db"))

    async def scene() -> None:
        run = asyncio.ensure_future(orchestrator.startup())
        await clock.sleep(1.0)
        await orchestrator.aclose()
        await orchestrator.aclose()
        with pytest.raises(StartupError, match="closed"):
            await run
        with pytest.raises(StartupError, match="closed"):
            await orchestrator.startup()

    await clock.run(scene())
    assert [task for task in asyncio.all_tasks() if "startup" in task.get_name()] == []


async def test_virtual_clock_wakes_in_order(clock: VirtualClock) -> None:
    """The virtual clock wakes sleepers at their own times, and notices when nothing can ever happen."""
    woke: list[float] = []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woke.append(clock.monotonic())

    async def both() -> None:
        await asyncio.gather(sleeper(3.0), sleeper(1.0))

    await clock.run(both())
    assert woke == [1.0, 3.0]
    never: Coroutine[Any, Any, None] = asyncio.sleep(3600)
    with pytest.raises(TimeoutError):
        await clock.run(never)
    task = asyncio.ensure_future(sleeper(2.0))
    await clock.advance(5.0)
    assert task.done()
    assert woke[-1] == 5.0
    assert clock.monotonic() == 8.0
