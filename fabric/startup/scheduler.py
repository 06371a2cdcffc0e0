"""Who may start: follows readiness through dependencies and gates to the queue for slots."""

from __future__ import annotations

import math
from collections.abc import Callable

from fabric.startup.admission import Admission
from fabric.startup.definition import Condition, Edge
from fabric.startup.events import Progress, Subject
from fabric.startup.gates import Gate, GateState
from fabric.startup.paths import reachable
from fabric.startup.plan import Plan, edge_is_hard
from fabric.startup.record import (
    DOWN,
    PENDING,
    SETTLED,
    UP,
    Cause,
    Failure,
    Phase,
    ServiceRecord,
    ServiceState,
    Trigger,
)
from fabric.startup.world import World

_KEPT_CHANGES = 50


class Scheduler:
    """The services and gates of one run.

    Args:
        world: shared with the engine; its records are those of the plan.
        plan: what to go by.
        launch: sends the commands for a service that has got its slot.
        changed: called with each service whose state has changed.

    Attributes:
        gates: one for each stage, in order.
        passable: how many gates from the first on are open or skipped.
        unsettled: the services that the run still waits for.
        last_change: what settled last; ``touched``: something changed since the engine looked.
        index: of each stage by its name.
    """

    def __init__(
        self,
        world: World,
        plan: Plan,
        *,
        launch: Callable[[ServiceRecord], None],
        changed: Callable[[ServiceRecord], None],
    ) -> None:
        self.plan = plan
        self.admission = Admission(plan)
        self.gates = [
            Gate(stage=stage, optional=optional) for stage, optional in zip(plan.stages, plan.gate_optional, strict=True)
        ]
        self.passable = 0
        self.unsettled: dict[str, None] = {}
        self.last_change = Trigger("run", "", world.now)
        self.touched = True
        self.index = {stage.name: index for index, stage in enumerate(plan.stages)}
        self._world, self._launch, self._changed = world, launch, changed
        self._dirty: dict[tuple[str, str], None] = {}
        self._freed_by = ""
        self._members: list[list[str]] = [[] for _ in plan.stages]
        for name, index in plan.stage_of.items():
            self._members[index].append(name)

    def begin(self) -> None:
        """The run starts: every service is looked at, and the first gate is entered."""
        for name in self.plan.rank:
            record = self._world.records[name]
            if not record.settled:
                self.unsettled[name] = None
        for index, gate in enumerate(self.gates):
            for name in (*gate.stage.health_gate.required, *gate.optional):
                self.gates[index].look(self._world.records[name], self._world.now, self._world.epoch)
        self._enter(0)
        because = Trigger("run", "", self._world.now)
        for name in self.plan.nodes:
            if name in self.plan.rank:
                self.assess(self._world.records[name], because)
        self.settle()

    def settle(self) -> None:
        """Lets every change have its consequences, until there are none left."""
        while True:
            while self._dirty:
                kind, name = next(iter(self._dirty))
                del self._dirty[kind, name]
                if kind == "gate":
                    self._gate_changed(int(name))
                    continue
                because = Trigger("service", name, self._world.now)
                for index in self.plan.gates_naming.get(name, ()):
                    self.judge(index, because)
                for dependent in self.plan.dependents.get(name, ()):
                    self.assess(self._world.records[dependent], because)
            name_or_none = None if self._world.ended else self.admission.next()
            if name_or_none is None:
                return
            self._start(self._world.records[name_or_none])

    # ------------------------------------------------------------ services

    def derive(self, record: ServiceRecord) -> None:
        """An instance has changed: works out the state of its service."""
        world, name = self._world, record.name
        flags = (record.has_started, record.is_ready)
        done = record.count(Phase.DONE)
        record.is_ready = record.ready_count(world.now, world.epoch) + done >= record.quorum
        record.has_started = record.started_count() >= record.quorum
        if record.has_started and record.started_at is None:
            record.started_at = world.now
        if flags != (record.has_started, record.is_ready) or name in self.plan.gates_naming:
            self._dirty["service", name] = None
        state, reason = self._state_of(record, done)
        if state is not record.state:
            self.set(record, state, reason)
        else:
            record.reason = reason

    def _state_of(self, record: ServiceRecord, done: int) -> tuple[ServiceState, str]:
        state, ended = record.state, self._world.ended
        same = state, record.reason
        if state in (ServiceState.STOPPING, ServiceState.STOPPED, ServiceState.SKIPPED):
            return same
        if record.job and done >= record.quorum:
            return ServiceState.COMPLETED, "it ended well"
        if record.is_ready and not record.job:
            missing = f", without {', '.join(record.missing)}" if record.missing else ""
            return (
                ServiceState.READY,
                f"{record.ready_count(self._world.now, self._world.epoch)} of {record.definition.instances} ready{missing}",
            )
        if state in PENDING or state is ServiceState.WITHDRAWN:
            return same
        if record.reachable() < record.quorum:
            return ServiceState.FAILED, record.failures[-1].reason if record.failures else "too few instances are left"
        active = record.count(Phase.STARTING, Phase.UP)
        if state in (ServiceState.READY, ServiceState.UNREADY) and (active or record.count(Phase.HELD)):
            said = next((place.said for place in record.instances.values() if place.said), "too few instances are ready")
            return ServiceState.UNREADY, said
        if active and state in (ServiceState.RETRYING, ServiceState.FAILED) and not ended:
            return ServiceState.STARTING, "it came back by itself and is not ready yet"
        if not active and record.count(Phase.PAUSING) and state not in PENDING and not ended:
            return ServiceState.RETRYING, record.failures[-1].reason if record.failures else ""
        return same

    def set(self, record: ServiceRecord, state: ServiceState, reason: str, because: Trigger | None = None) -> None:
        """Puts a service into a state and lets its dependents and gates know."""
        world, name, before = self._world, record.name, record.state
        record.book(world.now, state, self._freed_by)
        record.state, record.reason, record.since = state, reason, world.now
        if state in UP:
            record.left = False
        if state in UP and record.up_at is None:
            record.up_at = world.now
        if state in SETTLED:
            record.settled_at = world.now
        if name in self.plan.rank:
            if not record.settled:
                self.unsettled[name] = None
            elif name in self.unsettled:
                del self.unsettled[name]
                self.last_change = because or Trigger("service", name, world.now)
            if before is ServiceState.QUEUED:
                self.admission.leave(name)
            if state is ServiceState.QUEUED:
                self.admission.enter(name)
            elif state is ServiceState.STARTING:
                self.admission.adopt(name)
            elif before is ServiceState.STARTING and self.admission.release(name):
                self._freed_by = name
        self.touched = True
        world.out.append(Progress(subject=Subject.SERVICE, name=name, state=state, reason=reason, at=world.now))
        if (before in UP, before in DOWN) != (state in UP, state in DOWN):
            self._dirty["service", name] = None
        self._changed(record)

    def requeue(self, record: ServiceRecord) -> None:
        """Some of its instances are due for another attempt: back to the queue, if its dependencies still hold."""
        if record.state not in PENDING:
            self.set(record, ServiceState.WAITING, "it will be tried again")
        self.assess(record, Trigger("timer", record.name, self._world.now))

    def assess(self, record: ServiceRecord, because: Trigger) -> None:
        """Whether a service that has not been started may start, must wait, or can't."""
        if record.state not in PENDING or self._world.ended or record.name not in self.plan.rank:
            return
        blocked, waits = self._obstacles(record)
        if blocked:
            record.met_at = None
            if record.state is not ServiceState.BLOCKED or record.reason != blocked:
                if record.begun_at is None:
                    record.trigger = because
                self.set(record, ServiceState.BLOCKED, blocked, because)
            return
        if waits is None:
            if record.met_at is None:
                record.met_at = self._world.now
            waits = self._wish(record)
        elif waits[0] != "optional":
            record.met_at = None
        if waits is None:
            if record.state is not ServiceState.QUEUED:
                if record.begun_at is None:
                    record.trigger = because
                self.set(record, ServiceState.QUEUED, "waits for a slot", because)
            return
        if record.state is not ServiceState.WAITING:
            self.set(record, ServiceState.WAITING, f"waits for {waits[1]}", because)
        elif record.waits_on != waits:
            record.book(self._world.now, ServiceState.WAITING, self._freed_by)
        record.waits_on = waits
        record.reason = f"waits for {waits[1]}"

    def _obstacles(self, record: ServiceRecord) -> tuple[str, tuple[str, str] | None]:
        """What keeps a service from starting for good, and what it waits for first."""
        waits: tuple[str, str] | None = None
        for edge in self.plan.needs[record.name]:
            if edge.optional:
                continue
            other = self._world.records[edge.dependency]
            if is_met(edge, other):
                continue
            if other.state not in DOWN:
                waits = waits or ("dependency", other.name)
            elif edge_is_hard(edge, self.plan.services):
                return f"needs {other.name}, which is {other.state}", None
        stage = self.plan.stage_of.get(record.name, 0)
        if self.passable < stage:
            gate = self.gates[self.passable]
            if gate.state is GateState.FAILED:
                return f"is behind the gate of stage {gate.stage.name}, which failed", None
            waits = waits or ("gate", gate.stage.name)
        return "", waits

    def _wish(self, record: ServiceRecord) -> tuple[str, str] | None:
        """The optional dependency that it still waits for."""
        assert record.met_at is not None
        ends = math.inf
        found: tuple[str, str] | None = None
        for edge in self.plan.needs[record.name]:
            other = self._world.records[edge.dependency]
            if not edge.optional or is_met(edge, other) or other.state in DOWN or other.left:
                continue
            until = record.met_at + other.definition.timeout
            if self._world.now < until:
                ends = min(ends, until)
                found = found or ("optional", other.name)
        self._world.timers.set(("optional", record.name, ""), ends)
        return found

    def _start(self, record: ServiceRecord) -> None:
        now = self._world.now
        if record.begun_at is None and now > record.since:
            record.trigger = Trigger("slot", self._freed_by, now)
        record.missing = tuple(
            edge.dependency
            for edge in self.plan.needs[record.name]
            if not edge.optional and not is_met(edge, self._world.records[edge.dependency])
        )
        self._launch(record)
        attempt = f"attempt {record.attempt}" if record.attempt > 1 else "commanded"
        without = f", without {', '.join(record.missing)}" if record.missing else ""
        self.set(record, ServiceState.STARTING, attempt + without, record.trigger)
        record.begun_at = now if record.begun_at is None else record.begun_at

    # ------------------------------------------------------------ gates

    def judge(self, index: int, because: Trigger) -> None:
        """Something that a gate looks at may have changed."""
        gate, world = self.gates[index], self._world
        if because.kind == "service":
            gate.look(world.records[because.name], world.now, world.epoch)
        if gate.entered_at is None:
            return
        if because.kind != "service":
            for name in (*gate.unmet, *gate.awaited):
                gate.look(world.records[name], world.now, world.epoch)
        state = gate.judge(world.records, world.now)
        world.timers.set(("gate", gate.stage.name, ""), gate.recheck_at)
        if state is gate.state:
            return
        gate.state = state
        gate.changes = [*gate.changes[1 - _KEPT_CHANGES :], (because, gate.met_last)]
        if state.passable:
            gate.opened_at = world.now
            gate.passed_at = world.now if gate.passed_at is None else gate.passed_at
            if not gate.stage.skip_on_timeout:
                world.timers.cancel(("stage", gate.stage.name, ""))
        self.touched = True
        self.last_change = Trigger("gate", gate.stage.name, world.now)
        reason = "" if state is GateState.OPEN else f"waits for {', '.join(gate.unmet)}" if gate.unmet else ""
        world.out.append(Progress(subject=Subject.GATE, name=gate.stage.name, state=state, reason=reason, at=world.now))
        self._dirty["gate", str(index)] = None

    def _gate_changed(self, index: int) -> None:
        """What is behind a gate is looked at again, and the next gate is entered if this one let it be."""
        before = self.passable
        self.passable = next((i for i, gate in enumerate(self.gates) if not gate.state.passable), len(self.gates))
        for later in range(before, self.passable):
            self._enter(later + 1)
        because = Trigger("gate", self.gates[index].stage.name, self._world.now)
        for members in self._members[index + 1 :]:
            for name in members:
                self.assess(self._world.records[name], because)

    def _enter(self, index: int) -> None:
        if index >= len(self.gates) or self.gates[index].entered_at is not None:
            return
        gate = self.gates[index]
        gate.entered_at = self._world.now
        gate.state = GateState.CHECKING
        self._world.timers.set(("stage", gate.stage.name, ""), self._world.now + gate.stage.timeout)
        before = self.gates[index - 1].stage.name if index else ""
        self.judge(index, Trigger("gate", before, self._world.now) if index else Trigger("run", "", self._world.now))

    def stage_due(self, index: int) -> None:
        """The time of a stage is over."""
        gate, world = self.gates[index], self._world
        stage = gate.stage
        gate.timed_out = True
        if stage.skip_on_timeout:
            left = [name for name in self._members[index] if not self.plan.services[name].critical]
        elif gate.state is GateState.CHECKING:
            after = {name: [edge.dependency for edge in edges if not edge.optional] for name, edges in self.plan.needs.items()}
            left = [*gate.unmet, *sorted(reachable(gate.unmet, after))]
        else:
            left = []
        for name in left:
            self.last_change = Trigger("stage", stage.name, world.now)
            self._leave(world.records[name], f"stage {stage.name} ended after {stage.timeout:g} s")
        self.judge(index, Trigger("timer", stage.name, world.now))

    def _leave(self, record: ServiceRecord, reason: str) -> None:
        """The run waits for it no longer; it goes on by its own limits."""
        if record.settled:
            return
        record.left = self.touched = True
        record.settled_at = self._world.now
        self.unsettled.pop(record.name, None)
        if record.state not in PENDING:
            said = next((f"; last vote: {place.status} {place.said}" for place in record.instances.values() if place.said), "")
            failure = Failure(
                cause=Cause.STAGE_TIMEOUT,
                reason=f"{reason} before it was ready{said}",
                instance=None,
                attempt=record.attempt,
                at=self._world.now,
            )
            record.failures = [*record.failures, failure]
        self._dirty["service", record.name] = None


def is_met(edge: Edge, dependency: ServiceRecord) -> bool:
    """Whether what ``edge`` waits for holds now."""
    if edge.condition is Condition.COMPLETED:
        return dependency.state is ServiceState.COMPLETED
    return dependency.is_ready or (edge.condition is Condition.STARTED and dependency.has_started)
