"""What the coordinator says of a run: plain data that crosses processes, for the CLI, the dashboard and programs.

All times named ``at`` or ``since`` are seconds since 1970, all durations are seconds.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from fabric.health import HealthStatus


class RunState(enum.StrEnum):
    """Where the fleet is. ``DEGRADED``: up, but something optional is missing. ``FAILED``: something critical is missing."""

    IDLE = "idle"
    STARTING = "starting"
    UP = "up"
    DEGRADED = "degraded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPING = "stopping"
    STOPPED = "stopped"

    @property
    def is_settled(self) -> bool:
        """Nothing more happens by itself: the start has ended, well or not, or the fleet is down."""
        return self not in (RunState.IDLE, RunState.STARTING, RunState.STOPPING)

    @property
    def is_usable(self) -> bool:
        """Every critical service runs."""
        return self in (RunState.UP, RunState.DEGRADED)


class StageState(enum.StrEnum):
    """``OPEN``: its gate opened. ``SKIPPED``: given up on time or by choice, and the run went on."""

    PENDING = "pending"
    STARTING = "starting"
    OPEN = "open"
    SKIPPED = "skipped"
    FAILED = "failed"


class ServiceState(enum.StrEnum):
    """Where one service of the fleet is in this run.

    ``WAITING`` has ``waiting_for``; ``BLOCKED`` will not start because of what ``reason`` names; ``SKIPPED`` was not wanted.
    """

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    BLOCKED = "blocked"
    SKIPPED = "skipped"
    STOPPING = "stopping"
    STOPPED = "stopped"


class _Plain(BaseModel):
    """Unknown fields are dropped, so that an older client reads a newer coordinator."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class InstanceStatus(_Plain):
    """One process of a service.

    Attributes:
        id: the instance id.
        state: its life cycle as the registry has it: registered, initializing, starting, running, stopping, stopped, failed.
        pid: its process, None while unknown.
        health: its last vote.
        reason: of a health that is not yes, or of its end.
    """

    id: str
    state: str
    pid: int | None = None
    health: HealthStatus = HealthStatus.UNKNOWN
    reason: str = ""


class ServiceStatus(_Plain):
    """One service of the fleet.

    Attributes:
        wanted: instances that the fleet file asks for.
        attempt: of its start, from 1; 0 before the first.
        waiting_for: names of services, or ``gate:STAGE``, or ``slot``.
        since: when it came into ``state``.
        reason: one line for people: of a failure the cause and what to do.
    """

    name: str
    stage: str
    state: ServiceState
    critical: bool
    wanted: int = 1
    instances: tuple[InstanceStatus, ...] = ()
    attempt: int = 0
    waiting_for: tuple[str, ...] = ()
    since: float | None = None
    reason: str = ""


class GateStatus(_Plain):
    """``waiting_for``: what still keeps it closed, one line each."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    waiting_for: tuple[str, ...] = ()


class StageStatus(_Plain):
    """``elapsed``: from its first command to its gate, or to now."""

    name: str
    state: StageState
    gate: GateStatus = GateStatus()
    elapsed: float | None = None


class FailureReport(_Plain):
    """Why a run failed or is degraded, one entry a cause, the root causes first.

    Attributes:
        service: what failed.
        critical: whether the run failed by it.
        reason: what it or the system said.
        attempts: how often its start was tried.
        blocked: who could not start because of it.
        advice: what to do next.
        log: the last lines that its process wrote.
    """

    service: str
    critical: bool
    reason: str
    attempts: int = 1
    blocked: tuple[str, ...] = ()
    advice: str = ""
    log: tuple[str, ...] = ()


class RollStatus(_Plain):
    """A rolling restart.

    Attributes:
        id: given by whoever asked for it.
        state: a value of ``RollState``: running, paused, reverting, done, reverted, failed, aborted.
        over: whether it has ended.
        reason: why it goes back or has ended otherwise than well.
        services: which.
        replaced: instances that run the new version.
        doing: the step under way, "" for none.
        left: steps that are still to be done.
    """

    id: str
    state: str
    over: bool
    reason: str = ""
    services: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    doing: str = ""
    left: int = 0


RESTARTING: Final = "it is being restarted"
"""The reason of a service that a rolling restart has in its hands."""


class FleetStatus(_Plain):
    """All of a run at one moment.

    Attributes:
        epoch: the fencing number of the coordinator that leads.
        sequence: grows with each change, so that a reader can drop what is older.
        elapsed: from ``started_at`` to the end of the start, or to now.
        progress: 0 to 1.
        profile: of a start that has ended, the dict form of ``StartupProfile``.
        report: empty unless something failed.
        roll: the last rolling restart, None before the first.
    """

    fleet: str
    run: str
    epoch: int
    sequence: int = 0
    state: RunState
    started_at: float | None = None
    elapsed: float = 0.0
    progress: float = Field(default=0.0, ge=0.0, le=1.0)
    stages: tuple[StageStatus, ...] = ()
    services: tuple[ServiceStatus, ...] = ()
    profile: dict[str, Any] | None = None
    report: tuple[FailureReport, ...] = ()
    roll: RollStatus | None = None


class UpOptions(_Plain):
    """How a run is to go: the argument of the coordinator's ``up``.

    Attributes:
        parallel: False starts one service after the other.
        slots: services that may be starting at once; None is unlimited.
        skip_optional: leave out what no critical service needs.
        abort_on_failure: stop everything at the first critical failure.
        run: the id of the run; asking again with the same id is asking once. Empty is one that the coordinator makes.
    """

    parallel: bool = True
    slots: int | None = Field(default=None, ge=1)
    skip_optional: bool = False
    abort_on_failure: bool = False
    run: str = Field(default="", max_length=100)


class RestartOptions(_Plain):
    """How services are to be restarted: the argument of the coordinator's ``restart``.

    Attributes:
        id: of this restart; asking again with the same id is asking once.
        services: which; empty is all that are up and keep running.
        surge: start one instance more before the first is stopped.
        min_available: instances of each that stay ready; None is all of them with ``surge``, else all but one.
        stable_for: seconds that a new instance must be ready without a break before the next one goes.
        revert: go back to what ran before when a new instance fails.
    """

    id: str = Field(min_length=1, max_length=64)
    services: tuple[str, ...] = ()
    surge: bool = False
    min_available: int | None = Field(default=None, ge=0)
    stable_for: float = Field(default=10.0, ge=0, le=86_400)
    revert: bool = True


class ProcessExit(_Plain):
    """The argument of the coordinator's ``process_exited``: what the supervisor saw.

    Attributes:
        code: the exit code; negative is the signal that ended it.
        log: the last lines that it wrote.
        restarting_in: seconds until the supervisor starts it again; None: it will not.
    """

    service: str
    instance: str
    pid: int
    code: int
    log: tuple[str, ...] = ()
    restarting_in: float | None = None
