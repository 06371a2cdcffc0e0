"""Two coordinators, one journal, and a network that loses, doubles and reorders: whatever happens, nothing is started twice."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.journal_writer import JournalWriter
from fabric.errors import StaleCommand
from fabric.health import HealthStatus
from fabric.startup.definition import ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.events import (
    Command,
    CommandAccepted,
    CommandKind,
    Event,
    InstanceJoined,
    LeadershipTaken,
    Outcome,
    RunRequested,
    ServiceStarted,
    Vote,
)
from fabric.startup.stages import HealthGate, StartupStage

NEEDS = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
RUN = RunRequested(
    run="run",
    services=tuple(ServiceDefinition(name=name, dependencies=needs, timeout=1e6) for name, needs in NEEDS.items()),
    stages=(
        StartupStage(name="first", services=("a", "b"), health_gate=HealthGate(required=("a", "b")), timeout=1e6),
        StartupStage(name="second", services=("c", "d"), health_gate=HealthGate(required=("c", "d")), timeout=1e6),
    ),
)


def now_done(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of what never really waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a journal in memory does not wait")


@dataclass
class Obedient:
    """An agent by the rules of ``fabric.coordination.agent``: highest epoch, repeats answered, what runs is adopted."""

    name: str
    epoch: int = 0
    attempt: int = 0
    sequence: int = 0
    starts: int = 0
    stops: int = 0

    def obey(self, command: Command, now: float) -> list[Event]:
        if command.epoch < self.epoch or command.instance not in (None, f"{self.name}-1"):
            return []
        self.epoch = command.epoch
        if command.kind is CommandKind.STOP:
            self.stops += 1
            return []
        if command.kind is CommandKind.START:
            self.attempt = command.attempt
            if not self.starts:
                self.starts += 1
                return [self.report(CommandAccepted, attempt=self.attempt), *self.stand(now)]
        return self.stand(now)

    def stand(self, now: float) -> list[Event]:
        if not self.starts:
            return []
        started = self.report(ServiceStarted, attempt=self.attempt)
        return [started, self.report(Vote, status=HealthStatus.YES, expires_at=now + 1e6)]

    def report(self, kind: Any, **facts: Any) -> Event:
        self.sequence += 1
        event: Event = kind(
            service=self.name, instance=f"{self.name}-1", incarnation=1, sequence=self.sequence, epoch=self.epoch, **facts
        )
        return event


@dataclass
class Candidate:
    """A coordinator: its access to the journal, and an engine as long as it believes that it leads."""

    name: str
    journal: MemoryJournal
    engine: Engine | None = None
    writer: JournalWriter | None = None
    epochs: list[int] = field(default_factory=list)


class Takeovers(RuleBasedStateMachine):
    """A candidate that gets nothing to do is one that sleeps; it wakes with whatever rule picks it next."""

    @initialize()
    def begin(self) -> None:
        self.log: list[bytes] = []
        self.now = 1000.0
        self.agents = {name: Obedient(name) for name in NEEDS}
        self.candidates = [Candidate(name, MemoryJournal(self.log)) for name in ("one", "two")]
        self.commands: list[Command] = []
        self.reports: list[Event] = [agent.report(InstanceJoined) for agent in self.agents.values()]
        self.claim(0)
        self.handle(self.candidates[0], RUN)

    # ------------------------------------------------------------ what a coordinator does

    @rule(which=st.integers(0, 1))
    def claim(self, which: int) -> None:
        candidate = self.candidates[which]
        history = now_done(candidate.journal.claim(candidate.name, 1))
        assert not candidate.epochs or history.claim.epoch > candidate.epochs[-1]
        candidate.epochs.append(history.claim.epoch)
        engine = candidate.engine = Engine()
        for event, at in history.entries:
            engine.handle(event, at)
        candidate.writer = JournalWriter(candidate.journal, lambda: engine, lambda error: None)
        self.handle(candidate, LeadershipTaken(epoch=history.claim.epoch))

    def handle(self, candidate: Candidate, event: Event) -> None:
        self.now += 0.01
        if candidate.engine is None or candidate.writer is None:
            return
        try:
            now_done(candidate.writer.append([(event, self.now)]))
        except StaleCommand:
            assert now_done(candidate.journal.leader()).epoch > candidate.epochs[-1]
            candidate.engine = None
            return
        actions = candidate.engine.handle(event, self.now)
        self.commands += [action for action in actions if isinstance(action, Command)]

    # ------------------------------------------------------------ what the network does

    @precondition(lambda self: self.commands)
    @rule(data=st.data(), keep=st.booleans())
    def carry_command(self, data: st.DataObject, keep: bool) -> None:
        """In any order; kept, it comes again."""
        command = self.commands[data.draw(st.integers(0, len(self.commands) - 1))]
        if not keep:
            self.commands.remove(command)
        agent = self.agents[command.service]
        before = agent.starts
        self.reports += agent.obey(command, self.now)
        if agent.starts > before:
            assert all(self.agents[name].starts for name in NEEDS[agent.name]), f"{agent.name} came before what it needs"
            if agent.name in RUN.stages[1].services:
                assert all(self.agents[name].starts for name in RUN.stages[0].services), f"{agent.name} came before its gate"

    @precondition(lambda self: self.reports)
    @rule(data=st.data(), which=st.integers(0, 1), keep=st.booleans())
    def carry_report(self, data: st.DataObject, which: int, keep: bool) -> None:
        event = self.reports[data.draw(st.integers(0, len(self.reports) - 1))]
        if not keep:
            self.reports.remove(event)
        self.handle(self.candidates[which], event)

    @precondition(lambda self: self.commands)
    @rule(data=st.data())
    def lose_command(self, data: st.DataObject) -> None:
        self.commands.pop(data.draw(st.integers(0, len(self.commands) - 1)))

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def lose_report(self, data: st.DataObject) -> None:
        self.reports.pop(data.draw(st.integers(0, len(self.reports) - 1)))

    # ------------------------------------------------------------ what holds

    @invariant()
    def nothing_starts_twice_or_stops(self) -> None:
        for agent in getattr(self, "agents", {}).values():
            assert agent.starts <= 1
            assert agent.stops == 0

    def teardown(self) -> None:
        """From any state a new leader on a network that works again finishes the run."""
        if not hasattr(self, "log"):
            return
        self.commands.clear()
        self.reports.clear()
        self.claim(1)
        leader = self.candidates[1]
        assert leader.engine is not None
        for agent in self.agents.values():
            self.handle(leader, agent.report(InstanceJoined))
        for _ in range(1000):
            if not self.commands and not self.reports:
                break
            while self.commands:
                command = self.commands.pop(0)
                self.reports += self.agents[command.service].obey(command, self.now)
            while self.reports:
                self.handle(leader, self.reports.pop(0))
        assert leader.engine is not None
        assert leader.engine.outcome is Outcome.SUCCEEDED, leader.engine.reason
        assert [agent.starts for agent in self.agents.values()] == [1] * len(NEEDS)
        self.nothing_starts_twice_or_stops()


TestTakeovers = Takeovers.TestCase
TestTakeovers.__doc__ = """S2, S18: two leaders at a time, votes and commands late, doubled, reordered and lost; one start of
each, in order, and the run ends well."""
TestTakeovers.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
