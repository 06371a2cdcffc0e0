"""What the engine knows of one service and its instances."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from fabric.health import HealthStatus
from fabric.startup.definition import RetryPolicy, ServiceDefinition
from fabric.startup.events import Vote

REST = ""
"""Stands for the instances of a service that were commanded together and have not been heard of yet."""


class ServiceState(enum.StrEnum):
    """Where a service is in a run.

    WAITING for dependencies or a gate; QUEUED for a slot; STARTING: commanded, holds a slot; RETRYING: failed, will be tried
    again after a pause; READY; UNREADY: was ready, its votes lapsed; COMPLETED: a job that ended well; FAILED for good (it
    may still recover by itself); BLOCKED by something that failed; SKIPPED: left out of this run; WITHDRAWN: not started any
    more because the run ended early; STOPPING; STOPPED.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    STARTING = "starting"
    RETRYING = "retrying"
    READY = "ready"
    UNREADY = "unready"
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"
    SKIPPED = "skipped"
    WITHDRAWN = "withdrawn"
    STOPPING = "stopping"
    STOPPED = "stopped"


UP = frozenset({ServiceState.READY, ServiceState.COMPLETED})
DOWN = frozenset({ServiceState.FAILED, ServiceState.BLOCKED, ServiceState.SKIPPED, ServiceState.WITHDRAWN, ServiceState.STOPPED})
PENDING = frozenset({ServiceState.WAITING, ServiceState.QUEUED, ServiceState.BLOCKED})
LAUNCHED = frozenset({ServiceState.STARTING, ServiceState.READY, ServiceState.UNREADY})
SETTLED = UP | DOWN


class Phase(enum.StrEnum):
    """Where an instance is.

    PRESENT: joined, not commanded; PAUSING before another attempt; DUE for it; HELD: down, in the hands of a rolling restart.
    """

    PRESENT = "present"
    STARTING = "starting"
    UP = "up"
    PAUSING = "pausing"
    DUE = "due"
    FAILED = "failed"
    DONE = "done"
    STOPPED = "stopped"
    HELD = "held"


COMING = frozenset({Phase.STARTING, Phase.UP, Phase.PAUSING, Phase.DUE, Phase.HELD})


class Cause(enum.StrEnum):
    """Why an instance failed."""

    RAISED = "raised"
    EXITED = "exited"
    TIMEOUT = "timeout"
    SILENT = "silent"
    LOST = "lost"
    UNREACHABLE = "unreachable"
    LAPSED = "lapsed"
    STAGE_TIMEOUT = "stage-timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure of an instance.

    Attributes:
        cause: what kind.
        reason: in one line, for people.
        instance: which; None when none was ever heard of.
        attempt: of which attempt.
        at: when.
        code: the exit code, or the stable name that the service gave its error.
        tail: the last lines of its output.
        limit: of a timeout: the seconds it had.
    """

    cause: Cause
    reason: str
    instance: str | None
    attempt: int
    at: float
    code: int | str | None = None
    tail: str = ""
    limit: float | None = None


@dataclass(slots=True)
class Instance:
    """One place of a service, and its last vote.

    ``buried`` is the highest incarnation that is known to be dead. ``weight`` is how many places it stands for.
    """

    id: str
    phase: Phase
    attempt: int = 0
    failures: int = 0
    incarnation: int = -1
    sequence: int = -1
    buried: int = -1
    gone: bool = False
    accepted: bool = False
    held: bool = False
    weight: int = 1
    status: HealthStatus = HealthStatus.UNKNOWN
    said: str = ""
    vote_epoch: int = -1
    expires_at: float = -math.inf
    yes_since: float | None = None
    streak: int = 0
    ready_since: float | None = None
    was_ready: bool = False

    def is_news(self, incarnation: int, sequence: int) -> bool:
        """Whether a report was not overtaken by a later one, and comes from a process that may be alive."""
        if incarnation <= self.buried:
            return False
        return (incarnation, sequence) > (self.incarnation, self.sequence)

    def hear(self, incarnation: int, sequence: int) -> None:
        """Notes who spoke; what an earlier process said counts no more."""
        if incarnation > self.incarnation:
            self.void()
        self.incarnation, self.sequence, self.gone = incarnation, sequence, False

    def void(self) -> None:
        """Forgets the vote."""
        self.status, self.said, self.expires_at = HealthStatus.UNKNOWN, "", -math.inf
        self.yes_since, self.streak = None, 0

    def take(self, vote: Vote, now: float) -> None:
        """Keeps the vote. A yes goes on counting from the first one only if none between them lapsed."""
        lapsed = now >= self.expires_at
        self.status, self.said = vote.status, vote.reason
        self.vote_epoch, self.expires_at = vote.epoch, vote.expires_at
        if vote.status is HealthStatus.YES and now < vote.expires_at:
            self.yes_since = now if lapsed or self.yes_since is None else self.yes_since
            self.streak = 1 if lapsed else self.streak + 1
        else:
            self.yes_since, self.streak = None, 0

    def says_yes(self, now: float, epoch: int) -> bool:
        """Whether its last vote is a fresh yes of this epoch."""
        return self.status is HealthStatus.YES and now < self.expires_at and self.vote_epoch == epoch

    def is_ready(self, now: float, epoch: int, *, checked: bool) -> bool:
        return self.phase is Phase.UP and (not checked or self.says_yes(now, epoch))


@dataclass(slots=True)
class Trigger:
    """What let something happen at a moment: a service, a gate, a timer, or the run itself."""

    kind: str
    name: str
    at: float


@dataclass(slots=True)
class Span:
    """A stretch of a service's time: ``kind`` is dependency, optional, gate, slot, start or retry; ``on`` whom it was for."""

    kind: str
    on: str
    start: float
    end: float


@dataclass(slots=True)
class ServiceRecord:
    """One service in a run. Times are None until they are known.

    ``left``: the run waits for it no longer. ``leaving``: the run has no place for it, and it is or will be stopped.
    """

    definition: ServiceDefinition
    quorum: int
    retry: RetryPolicy
    job: bool
    state: ServiceState = ServiceState.WAITING
    reason: str = ""
    since: float = 0.0
    attempt: int = 0
    instances: dict[str, Instance] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    waits_on: tuple[str, str] = ("run", "")
    met_at: float | None = None
    missing: tuple[str, ...] = ()
    left: bool = False
    leaving: bool = False
    has_started: bool = False
    is_ready: bool = False
    begun_at: float | None = None
    started_at: float | None = None
    up_at: float | None = None
    settled_at: float | None = None
    trigger: Trigger | None = None
    booked_to: float = 0.0
    spans: list[Span] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def checked(self) -> bool:
        return bool(self.definition.health_checks)

    @property
    def settled(self) -> bool:
        """Whether the run need not wait for it."""
        return self.left or self.state in SETTLED

    def book(self, now: float, after: ServiceState, slot_of: str) -> None:
        """Books the time in the state that ends now, until the service is up for the first time.

        Args:
            now: the end of that time.
            after: the state that follows.
            slot_of: who gave back the slot that a service in the queue got.
        """
        start, self.booked_to = self.booked_to, now
        if self.up_at is not None or now <= start:
            return
        if self.state is ServiceState.STARTING:
            kind, on = ("start" if after in UP else "retry"), ""
        elif self.begun_at is not None:
            kind, on = "retry", ""
        elif self.state is ServiceState.QUEUED:
            kind, on = "slot", slot_of
        elif self.state in PENDING:
            kind, on = self.waits_on
        else:
            return
        self.spans = [*self.spans, Span(kind, on, start, now)]

    def add_rest(self, attempt: int) -> None:
        """Makes room for the instances that a command to all of them will bring forth."""
        unknown = self.definition.instances - len(self.instances)
        if unknown > 0:
            self.instances[REST] = Instance(REST, Phase.STARTING, attempt=attempt, weight=unknown)

    def count(self, *phases: Phase) -> int:
        """Places in these phases."""
        return sum(place.weight for place in self.instances.values() if place.phase in phases)

    def ready_count(self, now: float, epoch: int) -> int:
        return sum(place.weight for place in self.instances.values() if place.is_ready(now, epoch, checked=self.checked))

    def started_count(self) -> int:
        return self.count(Phase.UP, Phase.DONE)

    def reachable(self) -> int:
        """Places that are ready or may still become it."""
        return self.count(*COMING, Phase.DONE)

    def alive(self) -> bool:
        """Whether there may be a process of it."""
        return any(not place.gone and place.phase not in (Phase.DONE, Phase.STOPPED) for place in self.instances.values())
