"""The engine under any sequence of events: what must hold at every moment, and that no run is left hanging."""

from __future__ import annotations

import itertools
import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from fabric.health import HealthStatus
from fabric.startup.definition import Condition, Dependency, RetryPolicy, ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.events import (
    CancelRequested,
    Command,
    CommandAccepted,
    CommandKind,
    CommandLost,
    Event,
    InstanceJoined,
    InstanceLost,
    LeadershipTaken,
    Outcome,
    ProcessExited,
    RollAborted,
    RollRequested,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    SetTimer,
    ShutdownRequested,
    TimerDue,
    Vote,
)
from fabric.startup.explain import explain
from fabric.startup.measure import profile_of
from fabric.startup.plan import edge_is_hard
from fabric.startup.record import DOWN, SETTLED, Phase, ServiceState
from tests.unit.startup.fleets import request, service, stage

TWICE = RetryPolicy(attempts=2, delay=1.0)
FLEET = [
    service("db", retry_policy=TWICE, timeout=5.0),
    service("cache", critical=False, timeout=5.0),
    service("store", "db", instances=2, retry_policy=TWICE, timeout=5.0, stop_timeout=2.0),
    ServiceDefinition(name="migrate", dependencies=("db",), timeout=5.0, critical=True),
    ServiceDefinition(
        name="api",
        critical=True,
        dependencies=("store", "cache", Dependency(on="migrate", condition=Condition.COMPLETED)),
        optional_dependencies=("mail",),
        timeout=5.0,
    ),
    ServiceDefinition(name="mail", timeout=5.0, retry_policy=TWICE),
    service("web", "api", timeout=5.0, retry_policy=TWICE),
]
STAGES = [
    stage("core", "db", "cache", required=["db"], optional=["cache"], timeout=30.0),
    stage("data", "store", "migrate", "mail", required=["store"], instances={"store": 1}, stable_for=1.0, timeout=30.0),
    stage("front", "api", "web", timeout=30.0, skip_on_timeout=True, required=["web"]),
]
PLACES = ["db#1", "cache#1", "store#1", "store#2", "migrate#1", "api#1", "mail#1", "web#1"]
SLOTS = 2
KINDS: list[Any] = [CommandAccepted, ServiceStarted, ServiceStopped]


class AnyEvents(RuleBasedStateMachine):
    """Instances report whatever they like, whenever they like, again and again and out of order."""

    @initialize()
    def begin(self) -> None:
        self.engine = Engine()
        self.now = 0.0
        self.timer: float | None = None
        self.told: list[tuple[Event, float]] = []
        self.numbers = {place: itertools.count(1) for place in PLACES}
        self.incarnation = dict.fromkeys(PLACES, 0)
        self.past: list[Event] = []
        self.sent: set[tuple[str, int]] = set()
        self.tell(LeadershipTaken(epoch=1))
        self.tell(request(FLEET, STAGES, slots=SLOTS))

    def tell(self, event: Event) -> None:
        self.told.append((event, self.now))
        for action in self.engine.handle(event, self.now):
            if isinstance(action, SetTimer):
                self.timer = action.at
            elif isinstance(action, Command):
                self.commanded(action)

    def commanded(self, command: Command) -> None:
        """No service is started for the first time before what it needs; a new leader repeats what was sent before."""
        record = self.engine.services[command.service]
        key = (command.service, command.attempt)
        repeated = key in self.sent
        self.sent.add(key)
        if repeated or command.kind is not CommandKind.START or command.attempt > 1 or record.instances.keys() - {""}:
            return
        plan = self.engine.scheduler.plan
        for edge in plan.needs[command.service]:
            if edge_is_hard(edge, plan.services):
                assert self.engine.services[edge.dependency].state not in DOWN, edge
        assert self.engine.outcome is not Outcome.CANCELLED

    def place(self, place: str) -> dict[str, object]:
        return {"service": place.split("#")[0], "instance": place}

    def facts(self, place: str) -> dict[str, object]:
        numbers = {"incarnation": self.incarnation[place], "sequence": next(self.numbers[place])}
        return {**self.place(place), **numbers, "epoch": self.engine.epoch}

    def attempt(self, place: str) -> int:
        record = self.engine.services.get(place.split("#")[0])
        return record.attempt if record is not None else 0

    @rule(place=st.sampled_from(PLACES), kind=st.sampled_from(KINDS))
    def reports(self, place: str, kind: Any) -> None:
        event = kind(attempt=self.attempt(place), **self.facts(place))
        self.past.append(event)
        self.tell(event)

    @rule(place=st.sampled_from(PLACES))
    def fails(self, place: str) -> None:
        self.tell(ServiceFailed(attempt=self.attempt(place), reason="boom", **self.facts(place)))  # type: ignore[arg-type]

    @rule(place=st.sampled_from(PLACES), status=st.sampled_from(HealthStatus), lasts=st.sampled_from([1.0, 10.0, math.inf]))
    def votes(self, place: str, status: HealthStatus, lasts: float) -> None:
        event = Vote(status=status, reason="so", expires_at=self.now + lasts, **self.facts(place))  # type: ignore[arg-type]
        self.past.append(event)
        self.tell(event)

    @rule(place=st.sampled_from(PLACES), code=st.sampled_from([0, 1, -9]))
    def exits(self, place: str, code: int) -> None:
        incarnation = self.incarnation[place]
        self.incarnation[place] += 1
        self.tell(ProcessExited(code=code, incarnation=incarnation, **self.place(place)))  # type: ignore[arg-type]

    @rule(place=st.sampled_from(PLACES))
    def joins(self, place: str) -> None:
        self.tell(InstanceJoined(**self.facts(place)))  # type: ignore[arg-type]

    @rule(place=st.sampled_from(PLACES))
    def is_lost(self, place: str) -> None:
        self.tell(InstanceLost(reason="no heartbeat", **self.place(place)))  # type: ignore[arg-type]

    @rule(place=st.sampled_from(PLACES), kind=st.sampled_from(CommandKind), named=st.booleans())
    def command_is_lost(self, place: str, kind: CommandKind, named: bool) -> None:
        name = place.split("#")[0]
        instance = place if named else None
        self.tell(CommandLost(kind=kind, service=name, instance=instance, attempt=self.attempt(place), reason="no route"))

    @precondition(lambda self: bool(self.past))
    @rule(data=st.data())
    def comes_again(self, data: st.DataObject) -> None:
        self.tell(data.draw(st.sampled_from(self.past)))

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.wait(self.now + seconds)

    def wait(self, until: float) -> None:
        while self.timer is not None and self.timer <= until:
            self.now, self.timer = max(self.now, self.timer), None
            self.tell(TimerDue())
        self.now = until

    @rule()
    def another_leader(self) -> None:
        self.tell(LeadershipTaken(epoch=self.engine.epoch + 1))

    @rule(run=st.sampled_from(["run-1", "run-2", "run-3"]))
    def another_run(self, run: str) -> None:
        self.tell(request(FLEET[:4] if run == "run-2" else FLEET, STAGES[:1], run=run, slots=SLOTS))

    @rule(event=st.sampled_from([CancelRequested(), ShutdownRequested()]))
    def is_ended(self, event: Event) -> None:
        self.tell(event)

    @precondition(lambda self: self.can_roll("store"))
    @rule(surge=st.booleans())
    def is_rolled(self, surge: bool) -> None:
        self.tell(RollRequested(roll=f"roll-{len(self.told)}", services=("store",), surge=surge, stable_for=1.0, min_available=1))

    def can_roll(self, name: str) -> bool:
        over = self.engine.roll is None or self.engine.roll.state.over
        return over and name in self.engine.scheduler.plan.rank and self.engine.services[name].state is ServiceState.READY

    @rule(revert=st.booleans())
    def roll_is_aborted(self, revert: bool) -> None:
        self.tell(RollAborted(revert=revert))

    @invariant()
    def books_are_right(self) -> None:
        if not hasattr(self, "engine"):
            return
        engine, scheduler = self.engine, self.engine.scheduler
        waiting = {name for name in scheduler.plan.rank if not engine.services[name].settled}
        assert set(scheduler.unsettled) == waiting
        queued = {name for name in scheduler.plan.rank if engine.services[name].state is ServiceState.QUEUED}
        assert set(scheduler.admission.queue) == queued
        starting = {name for name in scheduler.plan.rank if engine.services[name].state is ServiceState.STARTING}
        assert set(scheduler.admission.held) == starting
        for name, record in engine.services.items():
            assert sum(place.weight for place in record.instances.values()) <= record.definition.instances + 2, name
            assert all(place.weight > 0 for place in record.instances.values())
            if name in scheduler.plan.rank:
                assert str(explain(engine, name))
        assert profile_of(engine).run == engine.run

    @invariant()
    def whatever_waits_has_a_deadline(self) -> None:
        if not hasattr(self, "engine"):
            return
        for name in self.engine.scheduler.plan.rank:
            record = self.engine.services[name]
            timers = {key[0] for key, _ in self.engine.timers() if key[1] == name}
            if record.state is ServiceState.STARTING:
                held = any(place.held for place in record.instances.values())
                assert timers & {"attempt", "retry"} or held, (name, record)
            elif record.state is ServiceState.RETRYING and not self.engine.ended:
                assert "retry" in timers, (name, record)
            elif record.state is ServiceState.STOPPING:
                assert "stop" in timers, (name, record)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.wait(self.now + 1000.0)
        for name in self.engine.scheduler.plan.rank:
            record = self.engine.services[name]
            assert record.state in SETTLED, f"{name} is {record.state} for ever: {explain(self.engine, name)}"
            assert (
                not any(place.phase in (Phase.DUE, Phase.PAUSING) for place in record.instances.values()) or record.state in DOWN
            )
        assert self.engine.outcome is not Outcome.RUNNING
        assert self.engine.roll is None or self.engine.roll.state.over
        again = Engine()
        for event, at in self.told:
            again.handle(event, at)
        assert again.services == self.engine.services
        assert again.outcome is self.engine.outcome


def test_engine_keeps_its_books_under_any_events() -> None:
    """Any events in any order: slots, queue and books are right, everything that waits has a deadline, every run ends, and a
    replay gives the same state."""
    run_state_machine_as_test(AnyEvents, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
