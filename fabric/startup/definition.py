"""What a service is and what it needs, as the fleet file says it."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fabric.errors import ConfigurationError


class Condition(enum.StrEnum):
    """What a dependent waits for at its dependency.

    ``STARTED``: its ``start()`` returned. ``HEALTHY``: it is ready, which is what most dependents want. ``COMPLETED``: it
    ended with exit code 0; a service that anyone waits for in this way is a job, and a job is ready when it has ended.
    """

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """One edge as its owner wrote it.

    Attributes:
        on: the service that is needed.
        condition: what is waited for there.
        source: ``file:line`` of the edge, for messages.
    """

    on: str
    condition: Condition = Condition.HEALTHY
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One edge of the graph: ``dependent`` waits for ``condition`` at ``dependency``.

    Attributes:
        optional: waited for only while it is still coming; never fails its dependent.
        source: ``file:line``.
    """

    dependent: str
    dependency: str
    condition: Condition = Condition.HEALTHY
    optional: bool = False
    source: str | None = None

    def __str__(self) -> str:
        return f"{self.dependent} -> {self.dependency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and when a start is tried again.

    Attributes:
        attempts: starts in all, from 1. More survives more transient faults and reports a permanent one later.
        delay: seconds before the second attempt.
        factor: each further delay is this much longer, from 1.
        max_delay: seconds that no delay exceeds.
        reset_after: seconds of being ready after which all attempts are there again; a smaller value lets a service that
            crashes after each start go round for ever.
    """

    attempts: int = 1
    delay: float = 0.5
    factor: float = 2.0
    max_delay: float = 30.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"retry attempts must be at least 1, not {self.attempts}")
        # Written so that NaN, of which nothing is true, is refused as well.
        if not all(0 <= seconds < math.inf for seconds in (self.delay, self.max_delay, self.reset_after)):
            raise ConfigurationError("retry delays must be seconds from 0")
        if not 1 <= self.factor < math.inf:
            raise ConfigurationError(f"the retry factor must be at least 1, not {self.factor}")

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, from 1."""
        # 2.0 ** 1100 overflows a float; past 64 doublings max_delay has long been reached.
        return float(min(self.max_delay, self.delay * self.factor ** min(failures - 1, 64)))


class CheckKind(enum.StrEnum):
    """How health is asked for. ``METHOD``: the service's own ``check_health()``. ``DEPENDENCY``: a call to ``target``."""

    METHOD = "method"
    HTTP = "http"
    TCP = "tcp"
    COMMAND = "command"
    DEPENDENCY = "dependency"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """One question whose answer becomes part of the vote.

    Attributes:
        kind: how it is asked.
        target: a URL, ``host:port``, a command line or a service; empty for METHOD.
        interval: seconds between two checks. Shorter notices sooner and costs more.
        timeout: seconds after which the answer is unknown.
        expect: what makes an answer a yes where that is a choice: the HTTP status; empty means any success.
        source: ``file:line``.
    """

    kind: CheckKind = CheckKind.METHOD
    target: str = ""
    interval: float = 2.0
    timeout: float = 5.0
    expect: str = ""
    source: str | None = None

    def __post_init__(self) -> None:
        if not (0 < self.interval < math.inf and 0 < self.timeout < math.inf):
            raise ConfigurationError("interval and timeout of a health check must be positive seconds", source=self.source)
        if self.kind is not CheckKind.METHOD and not self.target:
            raise ConfigurationError(f"a health check of kind {self.kind} needs a target", source=self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """A service of the fleet.

    Attributes:
        name: unique in the fleet.
        critical: when it fails for good, what needs it is not started and the run fails. A service that is not critical
            never stops anything: what needs it waits until it is ready or has failed for good, and then starts degraded.
        dependencies: names or ``Dependency``; must be met before it starts.
        optional_dependencies: waited for only while they are still coming, at most their own timeout.
        timeout: seconds from the command to ready, for each attempt.
        stop_timeout: seconds from the command to stop until it counts as stopped anyway.
        retry_policy: None takes the stage's, or a single attempt.
        health_checks: empty means that it is ready as soon as it has started, and that no gate may ask for it.
        resources: what its start takes of named budgets (``cpu``, ``memory``, any), given back when it is ready.
        capabilities: what it offers besides its name.
        instances: processes of it, from 1.
        source: ``file:line``.
    """

    name: str
    critical: bool = False
    dependencies: tuple[str | Dependency, ...] = ()
    optional_dependencies: tuple[str | Dependency, ...] = ()
    timeout: float = 30.0
    stop_timeout: float = 10.0
    retry_policy: RetryPolicy | None = None
    health_checks: tuple[HealthCheck, ...] = (HealthCheck(),)
    resources: Mapping[str, float] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    instances: int = 1
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("a service needs a name", source=self.source)
        if not (0 < self.timeout < math.inf and 0 < self.stop_timeout < math.inf):
            raise ConfigurationError(f"{self.name}: timeouts must be positive seconds", source=self.source)
        if self.instances < 1:
            raise ConfigurationError(f"{self.name}: instances must be at least 1, not {self.instances}", source=self.source)
        for resource, amount in self.resources.items():
            if not 0 <= amount < math.inf:
                raise ConfigurationError(f"{self.name}: {resource} must be a number from 0, not {amount}", source=self.source)
        seen: set[str] = set()
        for edge in self.edges():
            if edge.dependency in seen:
                raise ConfigurationError(f"{self.name} names {edge.dependency} twice", source=edge.source)
            seen.add(edge.dependency)

    def edges(self) -> tuple[Edge, ...]:
        """Its edges, required ones first, in the order they were written."""
        return tuple(
            Edge(dependent=self.name, dependency=item, optional=optional, source=self.source)
            if isinstance(item, str)
            else Edge(
                dependent=self.name,
                dependency=item.on,
                condition=item.condition,
                optional=optional,
                source=item.source or self.source,
            )
            for optional, group in ((False, self.dependencies), (True, self.optional_dependencies))
            for item in group
        )
