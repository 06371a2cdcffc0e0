"""Makes the profile of a run from the engine that brought it to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fabric.startup import paths
from fabric.startup.bound import Bound, bound_of
from fabric.startup.chain import critical_chain
from fabric.startup.engine import Engine
from fabric.startup.gates import Gate
from fabric.startup.plan import gate_name
from fabric.startup.profile import Bottleneck, GateProfile, ServiceProfile, StartupProfile, Stretch
from fabric.startup.record import UP, ServiceRecord
from fabric.startup.report import failure_report

_BOTTLENECKS = 10


def profile_of(engine: Engine, *, history: Mapping[str, float] | None = None) -> StartupProfile:
    """The profile of the current run; of one that has not finished, up to the latest event.

    Args:
        engine: it is only read.
        history: seconds that services took before, for the advice in the failure report.
    """
    plan, services = engine.scheduler.plan, engine.services
    finished = engine.finished_at > engine.started_at or not engine.scheduler.unsettled
    end = engine.finished_at if finished else engine.now
    makespan = max(0.0, end - engine.started_at)
    slack = _slack(engine, makespan)
    profiles = [_service(engine, services[name], slack[name]) for name in plan.rank]
    profiles.sort(key=lambda service: (service.ready is None, service.ready or 0.0, service.name))
    own = {service.name: service.own for service in profiles}
    width = plan.options.width
    chain = critical_chain(engine) if finished else ()
    bound = bound_of(engine, end)
    return StartupProfile(
        run=plan.run,
        outcome=engine.outcome,
        reason=engine.reason,
        started_at=engine.started_at,
        makespan=makespan,
        services=tuple(profiles),
        gates=tuple(_gate(engine, gate) for gate in engine.scheduler.gates),
        critical_path=chain,
        bottlenecks=_bottlenecks(bound, own, {part.name for part in chain if part.kind in ("start", "retry")}),
        work=sum(one.own for one in profiles if one.ready is not None and one.ready <= makespan),
        width=width if width is not None else widest(profiles),
        bound=bound.seconds(),
        bound_without_gates=bound_of(engine, end, gates=False).seconds(),
        slot_limited=width is not None,
        needs=dict(plan.node_needs),
        stages=plan.stages,
        options=plan.options,
        report=failure_report(engine, history=history) if finished else None,
    )


def widest(services: Sequence[ServiceProfile]) -> int:
    """The most services that were starting at once, at least 1."""
    edges = [(part.start, 1) for service in services for part in service.stretches if part.kind == "start"]
    edges += [(part.end, -1) for service in services for part in service.stretches if part.kind == "start"]
    most = now = 0
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return max(1, most)


def _service(engine: Engine, record: ServiceRecord, slack: float) -> ServiceProfile:
    origin = engine.started_at
    spans = [span for span in record.spans if span.start >= origin]
    total = {kind: sum(span.end - span.start for span in spans if span.kind == kind) for kind in {span.kind for span in spans}}
    up = record.state in UP
    return ServiceProfile(
        name=record.name,
        critical=record.definition.critical,
        state=record.state,
        reason="" if up else record.reason,
        attempts=record.attempt,
        missing=record.missing,
        waiting=total.get("dependency", 0.0) + total.get("optional", 0.0) + total.get("run", 0.0),
        gate=total.get("gate", 0.0),
        slot=total.get("slot", 0.0),
        retry=total.get("retry", 0.0),
        own=total.get("start", 0.0),
        begun=None if record.begun_at is None else record.begun_at - origin,
        ready=None if record.up_at is None else record.up_at - origin,
        slack=slack,
        stretches=tuple(Stretch(kind=span.kind, on=span.on, start=span.start - origin, end=span.end - origin) for span in spans),
    )


def _gate(engine: Engine, gate: Gate) -> GateProfile:
    origin = engine.started_at
    return GateProfile(
        stage=gate.stage.name,
        state=gate.state,
        entered=None if gate.entered_at is None else gate.entered_at - origin,
        opened=None if gate.opened_at is None else gate.opened_at - origin,
        missing=(*gate.unmet, *gate.awaited),
    )


def _slack(engine: Engine, makespan: float) -> dict[str, float]:
    """By how much longer each service could have taken: as the run went, so slots that were handed on count as edges."""
    plan, services = engine.scheduler.plan, engine.services
    needs = {node: list(others) for node, others in plan.node_needs.items()}
    for name in plan.rank:
        trigger = services[name].trigger
        if trigger is not None and trigger.kind == "slot" and trigger.name in needs:
            needs[name].append(trigger.name)
    order = paths.topological_order(needs)
    if order is None:
        # A slot handed on between services that were retried can close a circle; then the plan alone is gone by.
        order, needs = plan.nodes, {node: list(others) for node, others in plan.node_needs.items()}
    weights = {gate_name(gate.stage): _gate_time(engine, gate) for gate in engine.scheduler.gates}
    weights.update({name: _busy(services[name]) for name in plan.rank})
    ends = paths.earliest_ends(order, needs, weights)
    below = paths.remaining(order, needs, weights)
    return {name: max(0.0, makespan - (ends[name] - weights[name] + below[name])) for name in plan.rank}


def _busy(record: ServiceRecord) -> float:
    return sum(span.end - span.start for span in record.spans if span.kind in ("start", "retry"))


def _gate_time(engine: Engine, gate: Gate) -> float:
    """How long a gate kept others waiting after the last service it needs was there."""
    last = engine.services.get(gate.met_last)
    if gate.opened_at is None or last is None or last.up_at is None:
        return 0.0
    return max(0.0, gate.opened_at - max(last.up_at, gate.entered_at or 0.0))


def _bottlenecks(bound: Bound, own: Mapping[str, float], names: set[str]) -> tuple[Bottleneck, ...]:
    longest = sorted(names, key=lambda name: (-own.get(name, 0.0), name))[:_BOTTLENECKS]
    found = [Bottleneck(name=name, seconds=own.get(name, 0.0), gain=bound.saved_without(name)) for name in longest]
    return tuple(sorted(found, key=lambda part: (-part.gain, -part.seconds, part.name)))
