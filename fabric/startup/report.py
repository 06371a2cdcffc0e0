"""What went wrong in a run: the root causes first, who waits for them, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fabric.startup.engine import Engine
from fabric.startup.gates import GateState
from fabric.startup.paths import reachable
from fabric.startup.plan import edge_is_hard, gate_name
from fabric.startup.record import UP, Cause, Failure, ServiceRecord, ServiceState
from fabric.startup.some import SOME, some


@dataclass(frozen=True, slots=True, kw_only=True)
class Unhealthy:
    """A service that is not up.

    Attributes:
        state: a value of ``ServiceState``.
        cause: a value of ``Cause``; None for one that was never started.
        reason: in one line.
        root: nothing else explains it.
        waiting: the services that are not up because of it; for a root also those that are so indirectly.
        attempts: starts that were tried.
        code: the exit code, or the name of the error.
        tail: the last lines of its output.
        advice: what to do.
    """

    name: str
    critical: bool
    state: str
    cause: str | None
    reason: str
    root: bool
    waiting: tuple[str, ...] = ()
    attempts: int = 0
    code: int | str | None = None
    tail: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """Why a run did not end as it should.

    Attributes:
        error: in one line.
        stage: the first stage whose gate did not open, if there is one.
        duration: seconds from the request to the end of the run.
        unhealthy: root causes first, then what they took along; critical ones before others.
        degraded: services that are up, each with what it was started without.
        recommendations: what to do, the most useful first.
    """

    error: str
    stage: str | None
    duration: float
    unhealthy: tuple[Unhealthy, ...]
    degraded: Mapping[str, tuple[str, ...]]
    recommendations: tuple[str, ...]

    @property
    def roots(self) -> tuple[Unhealthy, ...]:
        return tuple(service for service in self.unhealthy if service.root)

    def __str__(self) -> str:
        where = f" in stage {self.stage}" if self.stage else ""
        lines = [f"{self.error}{where} after {self.duration:.1f} s"]
        for service in self.roots[:SOME]:
            lines.append(f"  {service.name} ({service.state}): {service.reason}")
            if service.waiting:
                lines.append(f"    waiting for it: {some(service.waiting)}")
            if service.advice:
                lines.append(f"    {service.advice}")
        if len(self.roots) > SOME:
            lines.append(f"  and {len(self.roots) - SOME:,} more that failed")
        lines += [f"  {name} runs without {some(self.degraded[name])}" for name in list(self.degraded)[:SOME]]
        if len(self.degraded) > SOME:
            lines.append(f"  and {len(self.degraded) - SOME:,} more run without something")
        return "\n".join(lines)


def failure_report(engine: Engine, *, history: Mapping[str, float] | None = None) -> FailureReport | None:
    """The report of the run that has ended, or None if there is nothing to report.

    Args:
        engine: after its run.
        history: seconds that services took before, to tell a timeout that is too short from a service that hangs.
    """
    scheduler, services = engine.scheduler, engine.services
    down = [name for name in scheduler.plan.rank if services[name].state not in UP]
    degraded = {name: services[name].missing for name in scheduler.plan.rank if services[name].missing and name not in down}
    gate = next((gate for gate in scheduler.gates if not gate.state.passable or gate.state is GateState.SKIPPED), None)
    if not down and not degraded and gate is None:
        return None
    because = _because(engine, down)
    followers: dict[str, set[str]] = {}
    for name, reasons in because.items():
        for other in reasons:
            followers.setdefault(other, set()).add(name)
    roots = {name for name in down if not because[name] and services[name].state in _HAD_THEIR_CHANCE}
    unhealthy = []
    for name in down:
        # Of what stands between only the next ones: in a long chain all of all would be more than anyone can hold.
        found = reachable([name], followers) if name in roots else followers.get(name, set())
        waiting = tuple(sorted(found.intersection(services) - {name}))
        unhealthy.append(_unhealthy(engine, name, root=name in roots, waiting=waiting, history=history or {}))
    unhealthy.sort(key=lambda service: (not service.root, not service.critical, -len(service.waiting), service.name))
    advice = [f"{service.name}: {service.advice}" for service in unhealthy if service.advice]
    return FailureReport(
        error=f"the run {engine.outcome}: {engine.reason}",
        stage=gate.stage.name if gate is not None else None,
        duration=max(0.0, engine.finished_at - engine.started_at),
        unhealthy=tuple(unhealthy),
        degraded=degraded,
        recommendations=tuple(advice),
    )


_HAD_THEIR_CHANCE = (ServiceState.FAILED, ServiceState.STARTING, ServiceState.RETRYING, ServiceState.UNREADY)


def _because(engine: Engine, down: list[str]) -> dict[str, set[str]]:
    """For each service that is not up, and each gate before one, what explains it.

    One that failed is explained by what it was started without, if by anything; one that was never started by what it needs
    and by the gates before it, and these by what they lack.
    """
    plan, services = engine.scheduler.plan, engine.services
    missing = set(down)
    because: dict[str, set[str]] = {}
    closed: list[str] = []
    before: list[tuple[str, ...]] = []
    for gate in engine.scheduler.gates:
        before.append(tuple(closed))
        lacks = missing.intersection(gate.unmet)
        if lacks:
            closed.append(gate_name(gate.stage))
            because[closed[-1]] = lacks
    for name in down:
        record = services[name]
        if record.state in _HAD_THEIR_CHANCE:
            because[name] = missing.intersection(record.missing)
            continue
        blocked = record.state is ServiceState.BLOCKED
        because[name] = {
            edge.dependency
            for edge in plan.needs[name]
            if not edge.optional and edge.dependency in missing and (not blocked or edge_is_hard(edge, plan.services))
        }
        if name in plan.stage_of:
            because[name].update(before[plan.stage_of[name]])
    return because


def _unhealthy(engine: Engine, name: str, *, root: bool, waiting: tuple[str, ...], history: Mapping[str, float]) -> Unhealthy:
    record = engine.services[name]
    failure = record.failures[-1] if record.failures else None
    if failure is None and record.state in _HAD_THEIR_CHANCE:
        reason = "it was still starting when the run waited for it no longer"
        failure = Failure(cause=Cause.STAGE_TIMEOUT, reason=reason, instance=None, attempt=record.attempt, at=engine.now)
    return Unhealthy(
        name=name,
        critical=record.definition.critical,
        state=record.state,
        cause=failure.cause if failure else None,
        reason=failure.reason if failure else record.reason,
        root=root,
        waiting=waiting,
        attempts=record.attempt,
        code=failure.code if failure else None,
        tail=failure.tail if failure else "",
        advice=_advice(record, failure, history.get(name)) if failure and root else "",
    )


_PORT_TAKEN = re.compile(
    r"EADDRINUSE|address already in use|errno 98|WinError 10048|port \d+ is (already )?(in use|allocated)", re.I
)
_REFUSED = re.compile(
    r"ECONNREFUSED|connection refused|errno 111|could not connect|name or service not known|\bENOTFOUND\b", re.I
)
_NO_MODULE = re.compile(r"ModuleNotFoundError|ImportError|No module named", re.I)
_NO_MEMORY = re.compile(r"MemoryError|out of memory|\bOOM", re.I)
_NEAR = 0.8
"""From this part of the timeout on, what a service took before says that the timeout is tight."""


def _advice(record: ServiceRecord, failure: Failure, before: float | None) -> str:
    """What to do about a failure: what its text shows first, then what its kind suggests."""
    text = f"{failure.reason}\n{failure.tail}"
    if _PORT_TAKEN.search(text):
        return "another process has its port: stop that one (ss -ltnp shows it) or give the service another port"
    if _REFUSED.search(text):
        needs = ", ".join(edge.dependency for edge in record.definition.edges())
        return "something it connects to did not answer: check its address settings" + (
            f"; it names {needs} as what it needs" if needs else "; it names no dependency, so add the one it connects to"
        )
    if _NO_MODULE.search(text):
        return "its code or a package of it can't be imported: run its command by hand in the same environment"
    if failure.code in (-9, 137) or _NO_MEMORY.search(text):
        return "it was killed, as a rule for want of memory: give it more, or start fewer at a time (slots, budgets)"
    if failure.code in (126, 127):
        return "its command was not found or may not be executed: check the command in the fleet file"
    if failure.cause is Cause.EXITED and failure.code == 0:
        return "it ended as if it were a job: let dependents wait for completed, or keep it running"
    if failure.cause is Cause.EXITED:
        return f"its process ended with {failure.code}: read the end of its output, and run its command by hand"
    if failure.cause in (Cause.TIMEOUT, Cause.STAGE_TIMEOUT) and before is not None and failure.limit:
        if before >= _NEAR * failure.limit:
            return f"it took {before:.1f} s before, and has {failure.limit:g} s: raise its timeout to {2 * before:.0f}s"
        return f"it took {before:.1f} s before, so {failure.limit:g} s is enough: it hangs; look at what its last vote says"
    return {
        Cause.RAISED: "its start() raised this: mend it there, or add attempts if it passes by itself",
        Cause.TIMEOUT: "raise its timeout if it is only slow, or look at what its last vote says it lacks",
        Cause.STAGE_TIMEOUT: "raise the timeout of its stage, or take it out of the gate if others need not wait for it",
        Cause.SILENT: "no instance ever answered: is it started at all, with the same broker and namespace as the coordinator?",
        Cause.LOST: "its instance went away without a word: read the end of its output, and see whether its machine is up",
        Cause.UNREACHABLE: "its commands did not get through: is the broker up, and is anyone there to start this service?",
        Cause.LAPSED: "it was ready and is not any more: its last vote says what it lacks",
        Cause.EXITED: "",
    }[failure.cause]
