"""What the infrastructure services say: of the broker, of the instances, of traffic policies, of the way in."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from fabric.errors import ConfigurationError
from fabric.routing.policies import Policies
from services.todo.contracts import Contract

ServiceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,99}$")]

PolicyTarget = Annotated[str, StringConstraints(pattern=r"^(capability:)?[A-Za-z0-9][A-Za-z0-9_\-]{0,99}$")]


# message-broker


class LinkChange(Contract):
    at: AwareDatetime
    state: str
    epoch: int
    reason: str = ""


class BrokerFacts(Contract):
    """The broker as this service's own link sees it.

    Attributes:
        state: of the link; ``blocked`` means that the broker has an alarm and takes no publishes.
        epoch: how many times it has connected.
        round_trip: seconds of the last ping, None when it failed.
        changes: of the state, the newest last, at most 50.
    """

    transport: str
    state: str
    epoch: int
    round_trip: float | None
    changes: tuple[LinkChange, ...]


class DeadEvent(Contract):
    """An event that a service gave up. ``payload`` is None when the message can't be read; ``reason`` says why then."""

    id: str
    topic: str
    payload: Any
    reason: str
    attempts: int
    died_at: AwareDatetime
    history: tuple[dict[str, Any], ...] = ()


# service-registry


class InstanceFacts(Contract):
    """One process. ``health`` is yes, no or unknown; ``metadata`` is what it adds, such as its URL."""

    service: str
    id: str
    state: str
    health: str
    reason: str
    version: str
    capabilities: tuple[str, ...]
    load: int
    host: str
    pid: int
    methods: tuple[str, ...]
    metadata: dict[str, Any]


class ServiceFacts(Contract):
    """``running`` of the ``instances`` take calls."""

    service: str
    instances: int
    running: int
    healthy: int
    versions: tuple[str, ...]
    capabilities: tuple[str, ...]


class RegistryChange(Contract):
    """``happening``: joined, changed, left or lost."""

    at: AwareDatetime
    happening: str
    service: str
    instance: str
    state: str
    reason: str = ""


class RegistrySnapshot(Contract):
    at: AwareDatetime
    instances: tuple[InstanceFacts, ...]
    services: tuple[ServiceFacts, ...]
    changes: tuple[RegistryChange, ...]


# service-mesh


class RetrySettings(Contract):
    """As ``fabric.routing.retry.RetryPolicy``: ``attempts`` in all, pauses from ``base`` to ``ceiling`` seconds, and
    ``budget_ratio`` retries per call on average."""

    attempts: int = Field(default=4, ge=1, le=10)
    base: float = Field(default=0.05, ge=0, le=60)
    factor: float = Field(default=2.0, ge=1, le=10)
    ceiling: float = Field(default=2.0, ge=0, le=600)
    budget_ratio: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.base > self.ceiling:
            raise ValueError("base must not be longer than ceiling")
        return self


class Treatment(Contract):
    """How calls to ``service`` are treated.

    Attributes:
        service: its name, or ``capability:NAME`` for calls by that.
        balancing: the name of a strategy of ``fabric.routing.balancing``.
        timeout: seconds for a call when the caller says none; None leaves it to the method.
        further: what else ``fabric.RoutePolicy`` has, in plain form: ``breaker``, ``ejection``, ``prefer``, ``hedge_after``.
    """

    service: str
    balancing: str = "round-robin"
    timeout: float | None = None
    retry: RetrySettings = RetrySettings()
    further: dict[str, Any] = Field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As ``fabric.Policies.from_plain`` takes it for one service."""
        limit = {} if self.timeout is None else {"timeout": self.timeout}
        return {"balancing": self.balancing, "retry": self.retry.model_dump(), **limit, **self.further}


class PolicyChange(Treatment):
    """What to set for calls to a service, in place of all that was set before.

    Attributes:
        expected_revision: refuse the change when the service's policy has another one by now.
    """

    service: PolicyTarget
    timeout: float | None = Field(default=None, gt=0, le=3600)
    expected_revision: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if twice := self.further.keys() & Treatment.model_fields.keys():
            raise ValueError(f"{min(twice)} has a field of its own")
        try:
            Policies.from_plain({"services": {self.service: self.to_plain()}})
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return self


class TrafficPolicy(Treatment):
    """``revision`` grows with every change of any policy, so the higher one is the newer; 0 is the default."""

    revision: int = 0


class PolicySet(Contract):
    """All policies that were set; every other service has the default."""

    revision: int = 0
    policies: tuple[TrafficPolicy, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As ``fabric.Policies.from_plain`` takes them."""
        return {"revision": self.revision, "services": {policy.service: policy.to_plain() for policy in self.policies}}


POLICY_CHANGED: Literal["policy.changed"] = "policy.changed"


# api-gateway


class GatewayAddress(Contract):
    url: str
    instance: str
