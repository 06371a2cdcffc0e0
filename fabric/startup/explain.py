"""Why a service is not up, or why it took that long: a chain of reasons that ends where something is to be done."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.errors import UnknownName
from fabric.startup.engine import Engine
from fabric.startup.gates import Gate
from fabric.startup.plan import edge_is_hard, gate_name
from fabric.startup.record import DOWN, REST, UP, Phase, ServiceRecord, ServiceState
from fabric.startup.scheduler import is_met
from fabric.startup.some import SOME, some


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One link of the chain.

    Attributes:
        subject: a service, or ``gate:STAGE``.
        state: where it is.
        text: what keeps it there, in one line.
        because: what that comes from.
    """

    subject: str
    state: str
    text: str
    because: tuple[Explanation, ...] = ()

    def lines(self, depth: int = 0) -> list[str]:
        """The chain as indented text."""
        return [
            f"{'  ' * depth}{self.subject} is {self.state}: {self.text}",
            *(line for reason in self.because for line in reason.lines(depth + 1)),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def explain(engine: Engine, name: str, *, now: float | None = None) -> Explanation:
    """Why the service ``name`` is where it is.

    Args:
        now: on the clock of the engine; None is the time of the last event.

    Raises:
        UnknownName: the run has no such service.
        LookupError: there was no run yet.
    """
    if name not in engine.scheduler.plan.services:
        raise UnknownName("service", name, used_by="explain", known=tuple(engine.scheduler.plan.services))
    return _Explainer(engine, engine.now if now is None else max(now, engine.now)).link(name, 0)


_DEPTH = 20
"""Links from one to the next; from there the ends of the chain follow at once."""
_LINKS = 200
"""In all. Nobody reads more, and a fleet of thousands has more ways through it than could ever be told."""


class _Explainer:
    def __init__(self, engine: Engine, now: float) -> None:
        self._engine, self._scheduler, self._now = engine, engine.scheduler, now
        self._gates = {gate_name(gate.stage): gate for gate in engine.scheduler.gates}
        self._told: set[str] = set()

    def link(self, subject: str, depth: int) -> Explanation:
        """A service or a gate, and below it what keeps it there, each told once."""
        state, text = self._here(subject)
        self._told.add(subject)
        because: list[Explanation] = []
        reasons, between = (self._reasons(subject), 0) if depth < _DEPTH else self._ends(subject)
        if between:
            text += f"; {between:,} more stand between this and what follows"
        elsewhere: list[str] = []
        more = 0
        for other in reasons:
            if other in self._told:
                elsewhere.append(other)
            elif len(because) < SOME and len(self._told) < _LINKS:
                because.append(self.link(other, depth + 1))
            else:
                more += 1
        if elsewhere:
            text += f"; see also {some(elsewhere)}"
        if more:
            text += f"; {more:,} more keep it there"
        return Explanation(subject=subject, state=state, text=text, because=tuple(because))

    def _here(self, subject: str) -> tuple[str, str]:
        if subject in self._gates:
            return self._gates[subject].state, self._gate_text(self._gates[subject])
        return self._engine.services[subject].state, self._text(self._engine.services[subject])

    def _reasons(self, subject: str) -> list[str]:
        if subject in self._gates:
            return list(self._gates[subject].waits_for(self._engine.services, self._now))
        record = self._engine.services[subject]
        return self._obstacles(record) if record.state in (ServiceState.WAITING, ServiceState.BLOCKED) else []

    def _ends(self, subject: str) -> tuple[list[str], int]:
        """Where the chains below end, and how many are left out on the way there."""
        ends: list[str] = []
        seen, todo = {subject}, [subject]
        while todo:
            for other in self._reasons(todo.pop()):
                if other in seen:
                    continue
                seen.add(other)
                todo.append(other)
                if not self._reasons(other):
                    ends.append(other)
        return sorted(ends), len(seen) - len(ends) - 1

    def _text(self, record: ServiceRecord) -> str:
        now, state = self._now, record.state
        if state is ServiceState.QUEUED:
            admission = self._scheduler.admission
            place = admission.queue.index(record.name) + 1
            lacking = admission.lacking(record.name)
            short = f", and there is too little {', '.join(lacking)} left" if lacking else ""
            return f"place {place} in the queue; slots are held by {', '.join(admission.held) or 'nobody'}{short}"
        if state in (ServiceState.STARTING, ServiceState.UNREADY):
            return f"attempt {record.attempt}, for {now - record.since:.1f} s of {record.definition.timeout:g} s; " + self._votes(
                record
            )
        if state is ServiceState.RETRYING:
            due = min(
                (at for (kind, name, _), at in self._engine.timers() if (kind, name) == ("retry", record.name)), default=now
            )
            return f"{record.reason}; the next attempt is in {max(0.0, due - now):.1f} s"
        if state in UP:
            return self._took(record)
        if state is ServiceState.FAILED:
            tries = f" (attempt {record.attempt})" if record.attempt > 1 else ""
            return f"{record.reason}{tries}; it will be used if it recovers by itself"
        return record.reason or "the run has not come to it yet"

    def _votes(self, record: ServiceRecord) -> str:
        now, epoch = self._now, self._engine.epoch
        parts = []
        for place in sorted(record.instances.values(), key=lambda place: place.id):
            if place.id == REST:
                parts.append(f"{place.weight} not heard of yet")
            elif place.phase is Phase.STARTING:
                parts.append(f"{place.id}: start() is running" if place.accepted else f"{place.id}: commanded")
            elif place.phase is not Phase.UP:
                parts.append(f"{place.id}: {place.phase}")
            elif place.is_ready(now, epoch, checked=record.checked):
                parts.append(f"{place.id}: ready")
            else:
                parts.append(f"{place.id}: started, votes {place.status}" + (f" ({place.said})" if place.said else ""))
        return f"needs {record.quorum} ready; " + "; ".join(parts)

    def _took(self, record: ServiceRecord) -> str:
        if record.up_at is None or not record.spans:
            return record.reason
        words = {"dependency": "waited for {}", "optional": "waited for the optional {}", "gate": "waited for the gate of {}"}
        words |= {"slot": "waited for a slot", "retry": "failed attempts", "start": "its own start", "run": "waited"}
        parts = [f"{span.end - span.start:.1f} s {words[span.kind].format(span.on)}" for span in record.spans]
        return f"{record.reason}, {record.up_at - self._engine.started_at:.1f} s after the run began: {', '.join(parts)}"

    def _obstacles(self, record: ServiceRecord) -> list[str]:
        found = []
        for edge in self._scheduler.plan.needs[record.name]:
            other = self._engine.services[edge.dependency]
            if is_met(edge, other) or (edge.optional and record.waits_on != ("optional", other.name)):
                continue
            if other.state in DOWN and not edge_is_hard(edge, self._scheduler.plan.services):
                continue
            found.append(other.name)
        for gate in self._scheduler.gates[: self._scheduler.plan.stage_of.get(record.name, 0)]:
            if not gate.state.passable:
                found.append(gate_name(gate.stage))
                break
        return found

    def _gate_text(self, gate: Gate) -> str:
        now, epoch = self._now, self._engine.epoch
        waits = gate.waits_for(self._engine.services, now)
        parts = []
        for name in waits[:SOME]:
            record = self._engine.services[name]
            parts.append(f"{name} ({gate.counted(record, now, epoch)} of {gate.needed(record)})")
        if len(waits) > len(parts):
            parts.append(f"{len(waits) - len(parts)} more")
        text = f"waits for {', '.join(parts)}" if parts else "has what it needs"
        return f"{text}; its {gate.stage.timeout:g} s are over" if gate.timed_out else text
