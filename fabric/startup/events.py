"""What the start-up engine is told and what it asks for: plain values, in and out.

An instance id names a place and stays when its process is started again; the incarnation grows then. Everything that an
instance reports carries one sequence number, growing with each report of whatever kind, so that what was overtaken on its
way is recognised. Times are seconds since 1970 on the clock of the engine.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from fabric.health import HealthStatus
from fabric.startup.definition import ServiceDefinition
from fabric.startup.stages import RunOptions, StartupStage


class CommandKind(enum.StrEnum):
    """``CHECK``: report where you stand: started or failed if so, and a vote, under the epoch of the command."""

    START = "start"
    STOP = "stop"
    CHECK = "check"


# ---------------------------------------------------------------- from whoever operates the fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequested:
    """Bring this fleet up. A run that is under way is superseded: what is up is adopted, what is starting goes on.

    Attributes:
        run: the id of the new run.
        services: the whole fleet.
        stages: gates in between; a service in no stage starts by its dependencies alone.
        durations: seconds that services took before, to order the queue; without them all weigh the same.
    """

    run: str
    services: tuple[ServiceDefinition, ...]
    stages: tuple[StartupStage, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    durations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Start nothing more and stop what is still starting. What is ready stays. A cancelled run stays cancelled."""

    reason: str = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownRequested:
    """Stop everything, dependents before what they need; also what has not finished starting."""

    reason: str = "shut down"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollRequested:
    """Replace the instances of services one after the other, in dependency order, without an interruption.

    Attributes:
        roll: the id of this rolling restart.
        services: which; each has to be up.
        version: the configuration and command to run from now on; empty only starts everything again.
        previous: what to go back to.
        surge: start one instance more before the first is stopped, so that there are never fewer than before. It is removed
            in the end.
        min_available: instances of each service that stay ready all the time; None is all of them with ``surge`` and all
            but one without.
        stable_for: seconds that a new instance must be ready without a break before the next one goes.
        revert: when a new instance fails, go back to ``previous`` everywhere; otherwise stay where it is.
    """

    roll: str
    services: tuple[str, ...]
    version: str = ""
    previous: str = ""
    surge: bool = False
    min_available: int | None = None
    stable_for: float = 10.0
    revert: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RollPaused:
    """Finish the step under way and begin no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollResumed:
    """Go on after a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollAborted:
    """Finish the step under way, then go back to the previous version, or with ``revert`` False leave things as they are."""

    revert: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipTaken:
    """This engine leads from now on, after a replay or at first.

    All votes are void, every known instance is asked again, and the time without a leader does not count for timeouts.
    """

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerDue:
    """The time of the last ``SetTimer`` has come."""


# ---------------------------------------------------------------- from the instances


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceJoined:
    """An instance is there and waits for its command (or runs already, which its votes will tell)."""

    service: str
    instance: str
    incarnation: int = 0
    sequence: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAccepted:
    """An instance has the command and works on it."""

    service: str
    instance: str
    attempt: int
    incarnation: int = 0
    sequence: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStarted:
    """``start()`` of an instance returned."""

    service: str
    instance: str
    attempt: int
    incarnation: int = 0
    sequence: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFailed:
    """``start()`` of an instance raised. ``reason`` for people; ``code`` a stable name for programs, if there is one."""

    service: str
    instance: str
    attempt: int
    reason: str
    code: str | None = None
    incarnation: int = 0
    sequence: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What an instance says of its readiness.

    Attributes:
        status: yes, no or unknown.
        reason: of a no or unknown: why, and what to do.
        epoch: the highest epoch that the instance has obeyed; a vote of another epoch than the engine's counts for nothing.
        expires_at: after this it is unknown again.
    """

    service: str
    instance: str
    status: HealthStatus
    reason: str = ""
    incarnation: int = 0
    sequence: int
    epoch: int = 0
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopped:
    """An instance has stopped as it was told."""

    service: str
    instance: str
    attempt: int = 0
    incarnation: int = 0
    sequence: int
    epoch: int = 0


# ---------------------------------------------------------------- about the instances, from whoever watches them


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLost:
    """An instance is gone: no sign of life, or it left. ``incarnation`` None means the one last known."""

    service: str
    instance: str
    reason: str
    incarnation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExited:
    """The process of an instance ended.

    Attributes:
        code: the exit code; negative is the signal that killed it.
        tail: the last lines of its output.
        incarnation: None means the one last known.
    """

    service: str
    instance: str
    code: int
    tail: str = ""
    incarnation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLost:
    """A command could not be handed over, so nobody has it. A STOP that is lost means that there is nothing to stop."""

    kind: CommandKind
    service: str
    instance: str | None
    attempt: int
    reason: str


Event = (
    RunRequested
    | CancelRequested
    | ShutdownRequested
    | RollRequested
    | RollPaused
    | RollResumed
    | RollAborted
    | LeadershipTaken
    | TimerDue
    | InstanceJoined
    | CommandAccepted
    | ServiceStarted
    | ServiceFailed
    | Vote
    | ServiceStopped
    | InstanceLost
    | ProcessExited
    | CommandLost
)


# ---------------------------------------------------------------- what the engine asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """To be carried to the instances of a service.

    An agent keeps the highest epoch it has seen, refuses lower ones, and answers a repeat of (run, attempt) with the result
    it recorded, so that sending a command again is harmless.

    Attributes:
        instance: None means every instance; for START, as many as ``instances`` of the definition, to be created if needed.
            A START for one instance whose process is gone starts it again under the same id.
        attempt: grows with each START of an instance, from 1.
        timeout: seconds in which it is to be done; afterwards the engine goes on without it. A STOP must have been
            enforced by then.
        version: of a START: the name of the configuration and command to run; empty means the one it had last.
    """

    kind: CommandKind
    run: str
    epoch: int
    service: str
    instance: str | None = None
    attempt: int = 0
    timeout: float
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Deliver ``TimerDue`` at ``at``. There is one timer: this replaces the last one; ``at`` None removes it."""

    at: float | None


class Subject(enum.StrEnum):
    SERVICE = "service"
    GATE = "gate"
    RUN = "run"
    ROLL = "roll"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that a user sees has changed.

    Attributes:
        subject, name: which service, stage, run or rolling restart.
        state: a value of ``ServiceState``, ``GateState``, ``Outcome`` or ``RollState``.
        reason: why, in one line.
        at: when.
    """

    subject: Subject
    name: str
    state: str
    reason: str
    at: float


class Outcome(enum.StrEnum):
    """How a run ended, or RUNNING.

    ``DEGRADED``: everything critical is up, something else is not. ``SUPERSEDED``: a later run or a higher epoch took over.
    """

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    DEGRADED = "degraded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    STOPPED = "stopped"

    @property
    def ok(self) -> bool:
        """Everything critical is up."""
        return self in (Outcome.SUCCEEDED, Outcome.DEGRADED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """Nothing of the run is under way any more.

    It comes again with another outcome when a service fails or recovers later: the engine goes on watching.
    """

    run: str
    outcome: Outcome
    reason: str
    at: float


class RollState(enum.StrEnum):
    """Where a rolling restart is.

    FAILED: a new instance failed and going back was not wanted or failed too. ABORTED: ended by request, left as it was.
    """

    RUNNING = "running"
    PAUSED = "paused"
    REVERTING = "reverting"
    DONE = "done"
    REVERTED = "reverted"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def over(self) -> bool:
        return self in (RollState.DONE, RollState.REVERTED, RollState.FAILED, RollState.ABORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollFinished:
    """A rolling restart is over.

    Attributes:
        state: DONE, REVERTED, FAILED or ABORTED.
        reason: of all but DONE: what went wrong, or who ended it.
        replaced: the instances that run the new version now.
    """

    roll: str
    state: RollState
    reason: str
    replaced: tuple[str, ...]
    at: float


Action = Command | SetTimer | Progress | RunFinished | RollFinished
