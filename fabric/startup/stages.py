"""Stages of a start-up and the gates between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fabric.errors import ConfigurationError
from fabric.startup.definition import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthGate:
    """What must hold before the stages after it begin.

    A gate is open only while it holds: it never stays open on an old yes. Services that have started already are not
    stopped when it closes again.

    Attributes:
        required: services that must be ready.
        optional: services waited for while they are still coming, at most their own timeout; reported when missing.
        instances: how many instances of a service must vote yes; a service not named here needs all of its instances.
        stable_for: seconds without interruption that each of these votes must have been yes. Longer catches a service that
            falls over after its first yes, and delays the next stage by as much.
        successes: votes of yes in a row that each instance needs.
        source: ``file:line``.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    instances: Mapping[str, int] = field(default_factory=dict)
    stable_for: float = 0.0
    successes: int = 1
    source: str | None = None

    def __post_init__(self) -> None:
        named = (*self.required, *self.optional)
        if len(set(named)) != len(named):
            raise ConfigurationError("a gate names a service twice", source=self.source)
        for service, count in self.instances.items():
            if service not in named:
                raise ConfigurationError(f"a gate counts instances of {service}, which it does not name", source=self.source)
            if count < 1:
                raise ConfigurationError(f"a gate needs at least 1 instance of {service}, not {count}", source=self.source)
        if not 0 <= self.stable_for < math.inf or self.successes < 1:
            raise ConfigurationError("stable_for must be seconds from 0 and successes at least 1", source=self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupStage:
    """Services that start behind the gates of the stages before, and the gate that ends the stage.

    Attributes:
        name: unique among the stages.
        services: in any order; their dependencies order them.
        health_gate: what the stages after it wait for; an empty one is open at once.
        timeout: seconds from the moment the gate before opens until this gate must be open.
        skip_on_timeout: then go on without it, and leave its services that are not critical to come up on their own;
            otherwise the required services that are missing have failed.
        retry_policy: for its services that have none of their own.
        source: ``file:line``.
    """

    name: str
    services: tuple[str, ...]
    health_gate: HealthGate = HealthGate()
    timeout: float = 60.0
    skip_on_timeout: bool = False
    retry_policy: RetryPolicy | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("a stage needs a name", source=self.source)
        if not 0 < self.timeout < math.inf:
            raise ConfigurationError(f"stage {self.name}: the timeout must be positive seconds", source=self.source)
        if len(set(self.services)) != len(self.services):
            raise ConfigurationError(f"stage {self.name} names a service twice", source=self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How one run goes about it.

    Attributes:
        parallel: False starts one service at a time.
        slots: services that may be starting at once; None is no limit. Too many make CPU-bound starts slow each other.
        budgets: how much of each named resource all starts together may take; a resource not named has no limit.
        skip_optional: leave out what is not critical and neither a critical service nor a gate needs.
        abort_on_failure: the first critical service that fails for good ends the run: nothing new is started and what is
            still starting is stopped. What is ready stays up until ``shutdown``.
    """

    parallel: bool = True
    slots: int | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    skip_optional: bool = False
    abort_on_failure: bool = False

    def __post_init__(self) -> None:
        if self.slots is not None and self.slots < 1:
            raise ConfigurationError(f"slots must be at least 1, not {self.slots}")
        for resource, amount in self.budgets.items():
            if not 0 <= amount < math.inf:
                raise ConfigurationError(f"the budget of {resource} must be a number from 0, not {amount}")

    @property
    def width(self) -> int | None:
        """Services that may be starting at once."""
        return self.slots if self.parallel else 1
