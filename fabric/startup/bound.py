"""How long a start had to take at least: seconds that no order of starting could have beaten.

A wait counts only if every order would have had to make it, each service taking as long as it did. So a service counts for
nothing where others would have gone on without it: a dependency that was missing when its dependent started, an optional one
beyond its time, one that is not critical and failed for a while, a gate that gives up waiting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from fabric.startup.definition import Condition
from fabric.startup.engine import Engine
from fabric.startup.gates import Gate
from fabric.startup.plan import edge_is_hard, gate_name
from fabric.startup.record import Cause, ServiceRecord

_PAIRS_UP_TO = 400
"""Services up to which every moment of beginning is tried for the bound of the slots; for more only the first is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What has to be over before a part begins.

    Attributes:
        on: another part.
        whole: its seconds have to be over; otherwise it only has to have begun.
        more: seconds on top of that.
        patience: but no longer than so many seconds after all that has to be waited for in any case.
        within: and no longer than so many after the gate before opened.
    """

    on: str
    whole: bool = True
    more: float = 0.0
    patience: float = math.inf
    within: float = math.inf

    @property
    def firm(self) -> bool:
        """It has to be waited for however long it takes."""
        return math.isinf(self.patience) and math.isinf(self.within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A service or a gate.

    Attributes:
        seconds: its own time; a gate has none.
        waits: what has to come before it.
        before: of a gate: the gate whose opening it was entered with.
        takes: what it holds while it starts, of what there is a limit for.
    """

    seconds: float
    waits: tuple[Wait, ...]
    before: str = ""
    takes: Mapping[str, float]


class Bound:
    """The least that a run can take.

    Args:
        parts: by name, each after what it waits for.
        limits: how much of what parts take there is at any time.
    """

    def __init__(self, parts: Mapping[str, Part], limits: Mapping[str, float]) -> None:
        self._parts, self._limits = parts, limits

    def seconds(self) -> float:
        """At least the longest chain, and at least the work spread evenly over the slots.

        Sharper than both: what can't begin before ``r`` and leaves at least ``q`` to be done after it has to fit into what is
        between, so that no order takes less than r + its work / slots + q, for any r and q (the bound of Jackson and Carlier
        for one machine, shared by several). A named resource with a budget bounds in the same way.
        """
        begins, rest, whole = self._begins(), self._rest(), self.chain
        for resource, limit in self._limits.items():
            # Of each one: how early it can begin, its work, and what is left when it has ended.
            jobs = [
                (begins[name], part.seconds * part.takes[resource], rest[name] - part.seconds)
                for name, part in self._parts.items()
                if part.seconds > 0 and part.takes.get(resource, 0.0) > 0
            ]
            whole = max(whole, _squeezed(jobs, limit))
        return whole

    def saved_without(self, name: str) -> float:
        """By how much the longest chain would be shorter if ``name`` took no time."""
        parts = {**self._parts, name: dataclasses.replace(self._parts[name], seconds=0.0)} if name in self._parts else self._parts
        return self.chain - Bound(parts, {}).chain

    @cached_property
    def chain(self) -> float:
        """The longest chain, seconds."""
        begins = self._begins()
        return max((begins[name] + part.seconds for name, part in self._parts.items()), default=0.0)

    def _begins(self) -> dict[str, float]:
        """The earliest that each can begin."""
        begins: dict[str, float] = {}
        for name, part in self._parts.items():
            over = [(begins[wait.on] + self._lag(wait), wait) for wait in part.waits]
            met = max((at for at, wait in over if wait.firm), default=0.0)
            entered = begins.get(part.before, 0.0)
            begins[name] = max(met, *(min(at, met + wait.patience, entered + wait.within) for at, wait in over), 0.0)
        return begins

    def _lag(self, wait: Wait) -> float:
        return wait.more + (self._parts[wait.on].seconds if wait.whole else 0.0)

    def _rest(self) -> dict[str, float]:
        """For each the seconds from its beginning to the end of everything that has to wait for it."""
        rest = {name: part.seconds for name, part in self._parts.items()}
        for name in reversed(list(self._parts)):
            for wait in self._parts[name].waits:
                if wait.firm:
                    rest[wait.on] = max(rest[wait.on], self._lag(wait) + rest[name])
        return rest


def _squeezed(jobs: list[tuple[float, float, float]], limit: float) -> float:
    heads = sorted({head for head, _, _ in jobs}) if len(jobs) <= _PAIRS_UP_TO else [0.0]
    jobs.sort(key=lambda job: -job[2])
    most = 0.0
    for head in heads:
        work = 0.0
        for begin, amount, tail in jobs:
            if begin >= head:
                work += amount
                most = max(most, head + work / limit + tail)
    return most


_SLOTS = ""
"""Stands for the slots among the named resources, which all have names."""


def bound_of(engine: Engine, end: float, *, gates: bool = True) -> Bound:
    """The bound of the current run up to ``end``, with or without its gates."""
    return _Reader(engine, end).bound(gates=gates)


class _Reader:
    """Tells from what happened which waits every order would have to make."""

    def __init__(self, engine: Engine, end: float) -> None:
        self._plan, self._records, self._end = engine.scheduler.plan, engine.services, end
        self._index = engine.scheduler.index
        self._gates = {
            gate_name(gate.stage): gate for gate in engine.scheduler.gates if gate.passed_at is not None and gate.passed_at <= end
        }
        self._ran_out = [
            gate.entered_at + gate.stage.timeout
            for gate in engine.scheduler.gates
            if gate.timed_out and gate.entered_at is not None
        ]
        # Others may have gone on for a while without what failed, and without what was left behind by a stage, and the same
        # holds for whatever stood behind these.
        self._fell = self._behind(_failed)
        self._troubled = self._fell | self._behind(self._was_left)

    def bound(self, *, gates: bool) -> Bound:
        options = self._plan.options
        limits = dict(options.budgets)
        if options.width is not None:
            limits[_SLOTS] = float(options.width)
        parts: dict[str, Part] = {}
        for name in self._plan.nodes:
            if name in self._gates:
                if gates:
                    parts[name] = self._gate(name, parts)
            elif name in self._records and self._is_up(self._records[name]):
                parts[name] = self._service(self._records[name], parts)
        return Bound(parts, {name: limit for name, limit in limits.items() if limit > 0})

    def _is_up(self, record: ServiceRecord) -> bool:
        return record.up_at is not None and record.up_at <= self._end

    def _was_left(self, record: ServiceRecord) -> bool:
        """Whether the time of a stage ran out before it was up, or it never was."""
        return not self._is_up(record) or any(at <= (record.up_at or 0.0) for at in self._ran_out)

    def _behind(self, holds: Callable[[ServiceRecord], bool]) -> set[str]:
        found: set[str] = set()
        for name in self._plan.nodes:
            itself = name in self._records and holds(self._records[name])
            if itself or not found.isdisjoint(self._plan.node_needs[name]):
                found.add(name)
        return found

    def _service(self, record: ServiceRecord, parts: Mapping[str, Part]) -> Part:
        # One that got no slot of this run, or came back by itself, started beside the limits.
        begun_here = record.begun_at is not None and record.trigger is not None
        return Part(
            seconds=own_time(record),
            waits=tuple(self._waits(record, parts)) if begun_here else (),
            takes={_SLOTS: 1.0, **record.definition.resources} if begun_here and not _failed(record) else {},
        )

    def _waits(self, record: ServiceRecord, parts: Mapping[str, Part]) -> Iterable[Wait]:
        begun_at = record.begun_at
        assert begun_at is not None
        for edge in self._plan.needs[record.name]:
            dependency = self._records[edge.dependency]
            if edge.dependency not in parts or edge.dependency in record.missing:
                continue
            # One that failed may have started in an attempt that came to nothing, and how soon is chance.
            started = edge.condition is Condition.STARTED
            there_at = dependency.started_at if started else dependency.up_at
            until_started = 0.0 if _failed(dependency) else _until_started(dependency)
            wait = Wait(on=edge.dependency, whole=not started, more=until_started if started else 0.0)
            if edge.optional:
                if edge.dependency not in self._troubled:
                    yield dataclasses.replace(wait, patience=dependency.definition.timeout)
                continue
            in_time = there_at is not None and there_at <= begun_at
            if in_time and (edge_is_hard(edge, self._plan.services) or edge.dependency not in self._troubled):
                yield wait
        stage = self._plan.stage_of.get(record.name, 0)
        if stage:
            gate = gate_name(self._plan.stages[stage - 1])
            passed_at = self._gates[gate].passed_at if gate in parts else None
            if passed_at is not None and passed_at <= begun_at:
                yield Wait(on=gate)

    def _gate(self, name: str, parts: Mapping[str, Part]) -> Part:
        gate = self._gates[name]
        index = self._index[gate.stage.name]
        before = gate_name(self._plan.stages[index - 1]) if index else ""
        known = before if before in parts else ""
        waits = [Wait(on=known)] if known else []
        return Part(seconds=0.0, waits=(*waits, *self._votes(gate, parts)), before=known, takes={})

    def _votes(self, gate: Gate, parts: Mapping[str, Part]) -> Iterable[Wait]:
        """What the gate waits for."""
        stage = gate.stage
        for name in (*stage.health_gate.required, *gate.optional):
            record = self._records[name]
            # With fewer instances than make the service ready it may open before that.
            if name not in parts or gate.needed(record) < record.quorum:
                continue
            # A job need not last, nor what was up before the run.
            more = 0.0 if record.job or record.begun_at is None else stage.health_gate.stable_for
            if name in gate.optional:
                patience = record.definition.timeout
                if name not in self._troubled and parts[name].seconds <= patience:
                    more = min(more, patience - parts[name].seconds)
                    yield Wait(on=name, more=more, patience=patience, within=stage.timeout)
            elif stage.skip_on_timeout:
                if name not in self._fell:
                    yield Wait(on=name, more=more, within=stage.timeout)
            elif record.up_at is not None and gate.passed_at is not None and record.up_at <= gate.passed_at:
                yield Wait(on=name, more=more)


def _failed(record: ServiceRecord) -> bool:
    """Whether it was down for a while. A stage that runs out of time leaves it behind, but does not stop it."""
    return any(failure.cause is not Cause.STAGE_TIMEOUT for failure in record.failures)


def _until_started(record: ServiceRecord) -> float:
    begun_at, started_at = record.begun_at, record.started_at
    return 0.0 if begun_at is None or started_at is None else max(0.0, started_at - begun_at)


def own_time(record: ServiceRecord) -> float:
    """Seconds of the attempt that brought it up."""
    return sum(span.end - span.start for span in record.spans if span.kind == "start")
