"""The state of a run as the plain data that clients are shown."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from fabric.coordination.status import (
    RESTARTING,
    FailureReport,
    FleetStatus,
    GateStatus,
    InstanceStatus,
    RollStatus,
    RunState,
    ServiceState,
    ServiceStatus,
    StageState,
    StageStatus,
)
from fabric.routing.instance import Instance
from fabric.startup.engine import Engine
from fabric.startup.events import Outcome, RollState
from fabric.startup.gates import Gate, GateState
from fabric.startup.profile import StartupProfile
from fabric.startup.record import ServiceRecord
from fabric.startup.record import ServiceState as Inner
from fabric.startup.rolling import RollingRestart

_SERVICE: Mapping[Inner, ServiceState] = {
    Inner.WAITING: ServiceState.WAITING,
    Inner.QUEUED: ServiceState.WAITING,
    Inner.STARTING: ServiceState.STARTING,
    Inner.RETRYING: ServiceState.STARTING,
    Inner.READY: ServiceState.READY,
    Inner.UNREADY: ServiceState.FAILED,
    Inner.COMPLETED: ServiceState.READY,
    Inner.FAILED: ServiceState.FAILED,
    Inner.BLOCKED: ServiceState.BLOCKED,
    Inner.SKIPPED: ServiceState.SKIPPED,
    Inner.WITHDRAWN: ServiceState.SKIPPED,
    Inner.STOPPING: ServiceState.STOPPING,
    Inner.STOPPED: ServiceState.STOPPED,
}
_STAGE: Mapping[GateState, StageState] = {
    GateState.WAITING: StageState.PENDING,
    GateState.CHECKING: StageState.STARTING,
    GateState.OPEN: StageState.OPEN,
    GateState.SKIPPED: StageState.SKIPPED,
    GateState.FAILED: StageState.FAILED,
}
_RUN: Mapping[Outcome, RunState] = {
    Outcome.RUNNING: RunState.STARTING,
    Outcome.SUCCEEDED: RunState.UP,
    Outcome.DEGRADED: RunState.DEGRADED,
    Outcome.FAILED: RunState.FAILED,
    Outcome.CANCELLED: RunState.CANCELLED,
    Outcome.SUPERSEDED: RunState.CANCELLED,
    Outcome.STOPPED: RunState.STOPPED,
}


def fleet_status(
    engine: Engine, fleet: str, announced: Mapping[str, tuple[Instance, ...]], *, now: float, sequence: int, stopping: bool
) -> FleetStatus:
    """Everything about the current run at this moment; before the first run only that there is none.

    Args:
        announced: by service, the instances as they announce themselves.
        now: on the clock of the engine.
        sequence: grows with each status that is made.
    """
    plan = engine.plan
    if plan is None:
        return FleetStatus(fleet=fleet, run="", epoch=engine.epoch, sequence=sequence, state=RunState.IDLE)
    state = _RUN[engine.outcome]
    if stopping and state is not RunState.STOPPED:
        state = RunState.STOPPING
    stages = {name: plan.stages[index].name for name, index in plan.stage_of.items()}
    services = tuple(
        _service(engine, engine.services[name], stages.get(name, ""), announced.get(name, ())) for name in plan.services
    )
    settled = sum(1 for service in services if service.state is not ServiceState.WAITING) + sum(
        1 for service in services if service.state not in (ServiceState.WAITING, ServiceState.STARTING)
    )
    running = engine.outcome is Outcome.RUNNING
    return FleetStatus(
        fleet=fleet,
        run=engine.run,
        epoch=engine.epoch,
        sequence=sequence,
        state=state,
        started_at=engine.started_at,
        elapsed=(now if running else max(engine.finished_at, engine.started_at)) - engine.started_at,
        progress=1.0 if not running or not services else settled / (2 * len(services)),
        stages=tuple(_stage(engine, gate, now) for gate in engine.scheduler.gates),
        services=services,
        roll=None if engine.roll is None else roll_status(engine.roll),
    )


def roll_status(roll: RollingRestart) -> RollStatus:
    """A rolling restart as plain data."""
    step = roll.current
    return RollStatus(
        id=roll.request.roll,
        state=RollState.PAUSED if roll.paused and not roll.state.over else roll.state,
        over=roll.state.over,
        reason=roll.reason,
        services=roll.request.services,
        replaced=tuple(roll.replaced),
        doing="" if step is None else f"{'starting' if step.start else 'stopping'} {step.instance}",
        left=roll.steps_left,
    )


def _service(engine: Engine, record: ServiceRecord, stage: str, announced: tuple[Instance, ...]) -> ServiceStatus:
    state, reason = _SERVICE[record.state], record.reason
    if record.state is Inner.UNREADY and engine.roll is not None and record.name in engine.roll.holds:
        state, reason = ServiceState.STARTING, RESTARTING
    waiting: tuple[str, ...] = ()
    if record.state is Inner.QUEUED:
        waiting = ("slot",)
    elif record.state is Inner.WAITING and record.waits_on[1]:
        kind, name = record.waits_on
        waiting = (f"gate:{name}",) if kind == "gate" else (name,)
    return ServiceStatus(
        name=record.name,
        stage=stage,
        state=state,
        critical=record.definition.critical,
        wanted=record.definition.instances,
        instances=tuple(
            InstanceStatus(
                id=instance.id,
                state=instance.state,
                pid=instance.pid or None,
                health=instance.health.status,
                reason=instance.health.reason,
            )
            for instance in announced
        ),
        attempt=record.attempt,
        waiting_for=waiting,
        since=record.since or None,
        reason=reason,
    )


def _stage(engine: Engine, gate: Gate, now: float) -> StageStatus:
    elapsed: float | None = None
    passed = gate.state.passable and gate.opened_at is not None
    # One that closed and opened once more after the start says nothing of how long the start took.
    again = passed and engine.outcome is not Outcome.RUNNING and (gate.opened_at or 0.0) > engine.finished_at
    if gate.entered_at is not None and not again:
        elapsed = max(0.0, (gate.opened_at if passed and gate.opened_at is not None else now) - gate.entered_at)
    waits = gate.waits_for(engine.services, now) if gate.state is GateState.CHECKING else tuple(gate.unmet)
    return StageStatus(
        name=gate.stage.name,
        state=_STAGE[gate.state],
        gate=GateStatus(required=gate.stage.health_gate.required, optional=gate.stage.health_gate.optional, waiting_for=waits),
        elapsed=elapsed,
    )


def with_profile(status: FleetStatus, profile: StartupProfile) -> FleetStatus:
    """The same status after the start has ended."""
    causes = profile.report.roots or profile.report.unhealthy if profile.report is not None else ()
    return status.model_copy(
        update={
            "profile": orjson.loads(profile.to_json()),
            "report": tuple(
                FailureReport(
                    service=cause.name,
                    critical=cause.critical,
                    reason=cause.reason,
                    attempts=cause.attempts,
                    blocked=cause.waiting,
                    advice=cause.advice,
                    log=tuple(cause.tail.splitlines()),
                )
                for cause in causes
            ),
        }
    )
