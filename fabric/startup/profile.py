"""What a run took, and why: times of every service, the critical path, and how near it was to the best possible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from fabric.errors import StartupFailed
from fabric.startup.chain import Segment
from fabric.startup.codec import dump, load
from fabric.startup.events import Outcome
from fabric.startup.record import UP
from fabric.startup.report import FailureReport
from fabric.startup.stages import RunOptions, StartupStage


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of a service's time, for drawing. ``on`` is whom it waited for. Seconds from the start of the run."""

    kind: str
    on: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceProfile:
    """One service in a run. Seconds.

    Attributes:
        state: where it was when the run ended, a value of ``ServiceState``.
        reason: why, if it is not up.
        attempts: starts that it took.
        missing: dependencies that it was started without.
        waiting: for dependencies, required and optional.
        gate: for gates, after its dependencies were met.
        slot: for a slot or a resource.
        retry: failed attempts and the pauses between them.
        own: its last attempt.
        begun, ready: from the start of the run; None if it never was.
        slack: by how much longer it could have taken without the run taking longer.
        stretches: all of it in order.
    """

    name: str
    critical: bool
    state: str
    reason: str = ""
    attempts: int = 0
    missing: tuple[str, ...] = ()
    waiting: float = 0.0
    gate: float = 0.0
    slot: float = 0.0
    retry: float = 0.0
    own: float = 0.0
    begun: float | None = None
    ready: float | None = None
    slack: float = 0.0
    stretches: tuple[Stretch, ...] = ()

    @property
    def up(self) -> bool:
        return self.state in UP


@dataclass(frozen=True, slots=True, kw_only=True)
class GateProfile:
    """The gate of one stage. Seconds from the start of the run.

    Attributes:
        state: a value of ``GateState``.
        entered, opened: None if it never was.
        missing: services it looked at that were not there in the end.
    """

    stage: str
    state: str
    entered: float | None = None
    opened: float | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """A service on the critical path. ``gain``: seconds that the run would be shorter if it took no time at all."""

    name: str
    seconds: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupProfile:
    """A run of the fleet that has ended.

    Attributes:
        run, outcome, reason: of the run.
        started_at: seconds since 1970.
        makespan: seconds from the request to the end.
        services: in the order in which they became ready, then the others.
        gates: in the order of the stages.
        critical_path: what decided the makespan; its segments meet and their sum is the makespan.
        bottlenecks: the services of which it would pay most to make them faster.
        work: T1, the own times of all services one after the other.
        width: m, the slots; without a limit the most services that were starting at once.
        bound: LB, seconds that no order of starting could have beaten with these gates, slots and budgets; in a run without
            failures never below the critical path or T1/m (see ``fabric.startup.bound``).
        bound_without_gates: the same if there were no gates.
        slot_limited: whether there was a limit.
        needs: for each service and gate (``gate:STAGE``) what it waited for.
        stages, options: what was asked for.
        report: what went wrong, if anything did.
    """

    run: str
    outcome: Outcome
    reason: str
    started_at: float
    makespan: float
    services: tuple[ServiceProfile, ...]
    gates: tuple[GateProfile, ...] = ()
    critical_path: tuple[Segment, ...] = ()
    bottlenecks: tuple[Bottleneck, ...] = ()
    work: float = 0.0
    width: int = 1
    bound: float = 0.0
    bound_without_gates: float = 0.0
    slot_limited: bool = False
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stages: tuple[StartupStage, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    report: FailureReport | None = None

    @property
    def ok(self) -> bool:
        """Everything critical is up."""
        return self.outcome.ok

    @property
    def parallel_efficiency(self) -> float:
        """T1 / (m T): the part of the slots' time in which something was starting. 1 is full use, if the graph allows it."""
        return self.work / (self.width * self.makespan) if self.makespan else 1.0

    @property
    def schedule_efficiency(self) -> float:
        """LB / T: 1 is the best that any order could have done."""
        return self.bound / self.makespan if self.makespan else 1.0

    @property
    def durations(self) -> dict[str, float]:
        """The own time of every service that came up."""
        return {service.name: service.own for service in self.services if service.up and service.begun is not None}

    def service(self, name: str) -> ServiceProfile:
        """The part of one service.

        Raises:
            KeyError: it was not in the run.
        """
        return next(service for service in self.services if service.name == name)

    def raise_for_outcome(self) -> StartupProfile:
        """Itself if everything critical is up.

        Raises:
            StartupFailed: otherwise.
        """
        if not self.ok:
            raise StartupFailed(str(self.report or f"{self.outcome}: {self.reason}"), profile=self)
        return self

    def to_json(self) -> str:
        """All of it; ``from_json`` reads it back."""
        return json.dumps(dump(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> StartupProfile:
        """Reads what ``to_json`` wrote.

        Raises:
            ConfigurationError: it is not a profile.
        """
        return load(cls, json.loads(text))
