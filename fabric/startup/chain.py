"""The chain of what was waited for, from the end of a run back to its start, without a gap."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.startup.engine import Engine
from fabric.startup.record import ServiceRecord, Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of the critical path. Times in seconds from the start of the run.

    Attributes:
        kind: ``start``: the service's own last attempt; ``retry``: its failed attempts and the pauses between; ``gate``: the
            gate had all votes and waited for its stable time, or for its optional services; ``optional``: the service
            waited for an optional dependency; ``stage``: the run waited until the time of the stage was over; ``wait``:
            nothing of the run's own was under way.
        name: the service or the stage.
    """

    kind: str
    name: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


def critical_chain(engine: Engine) -> tuple[Segment, ...]:
    """What decided the duration of the run that has finished: the segments meet, and their sum is the makespan."""
    walk = _Walk(engine)
    at: Trigger | None = Trigger(engine.finished_by.kind, engine.finished_by.name, engine.finished_at)
    seen: set[tuple[str, str, float]] = set()
    while at is not None and at.at > walk.origin and (key := (at.kind, at.name, at.at)) not in seen:
        seen.add(key)
        at = walk.back(at)
    walk.add("wait", "", walk.origin, walk.reached)
    return tuple(reversed(walk.segments))


class _Walk:
    """One step of the way back at a time. ``reached`` is how far the segments reach down."""

    def __init__(self, engine: Engine) -> None:
        self.origin, self.reached = engine.started_at, engine.finished_at
        self.segments: list[Segment] = []
        self._services = engine.services
        self._gates = {gate.stage.name: gate for gate in engine.scheduler.gates}
        self._needs = engine.scheduler.plan.needs

    def add(self, kind: str, name: str, start: float, end: float) -> None:
        start, end = max(start, self.origin), min(end, self.reached)
        if start < end:
            if end < self.reached:
                self.segments.append(Segment(kind="wait", name=name, start=end - self.origin, end=self.reached - self.origin))
            stop = end - self.origin
            later = self.segments[-1] if self.segments else None
            if later is not None and (later.kind, later.name, later.start) == (kind, name, stop):
                stop = self.segments.pop().end
            self.segments.append(Segment(kind=kind, name=name, start=start - self.origin, end=stop))
            self.reached = start

    def back(self, at: Trigger) -> Trigger | None:
        """What let ``at`` happen when it did."""
        if at.kind in ("service", "slot") and at.name in self._services:
            return self._service(self._services[at.name], at.at)
        if at.kind == "gate" and at.name in self._gates:
            return self._gate(at.name, at.at)
        if at.kind == "timer" and at.name in self._gates:
            return self._gate(at.name, at.at)
        if at.kind == "stage" and at.name in self._gates:
            return self._entered("stage", at.name, at.at)
        if at.kind == "timer" and at.name in self._services:
            return self._patience(self._services[at.name], at.at)
        return None

    def _service(self, record: ServiceRecord, end: float) -> Trigger | None:
        begun = record.begun_at
        if begun is None or begun >= end:
            return record.trigger
        for span in reversed(record.spans):
            if span.start >= begun and span.kind in ("start", "retry"):
                self.add(span.kind, record.name, span.start, span.end)
        self.add("start", record.name, begun, end)
        return record.trigger

    def _gate(self, stage: str, end: float) -> Trigger | None:
        gate = self._gates[stage]
        change = next(((by, met) for by, met in reversed(gate.changes) if by.at <= end), None)
        if change is None or gate.entered_at is None:
            return None
        by, met_last = change
        if by.kind in ("service", "gate"):
            return Trigger(by.kind, by.name, end)
        last = self._services.get(met_last)
        up_at = last.up_at if last is not None else None
        if last is not None and up_at is not None and gate.entered_at <= up_at < end:
            self.add("gate", stage, up_at, end)
            return Trigger("service", last.name, up_at)
        return self._entered("gate", stage, end)

    def _entered(self, kind: str, stage: str, end: float) -> Trigger | None:
        """The stage had been waiting since it was entered, when the gate before it opened."""
        entered_at = self._gates[stage].entered_at
        if entered_at is None:
            return None
        self.add(kind, stage, entered_at, end)
        names = list(self._gates)
        index = names.index(stage)
        return Trigger("gate", names[index - 1], entered_at) if index else None

    def _patience(self, record: ServiceRecord, end: float) -> Trigger | None:
        if record.met_at is None or record.met_at >= end:
            return None
        self.add("optional", record.name, record.met_at, end)
        ends = [
            (other.up_at, other.name)
            for edge in self._needs.get(record.name, ())
            if (other := self._services[edge.dependency]).up_at is not None
        ]
        latest = max(((up, name) for up, name in ends if up is not None and up <= record.met_at), default=None)
        return Trigger("service", latest[1], record.met_at) if latest else None
