"""One running process of a service, as it announces itself, and the life it leads."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fabric.errors import IllegalTransition, InvalidMessage
from fabric.health import Health, HealthStatus


class InstanceState(enum.StrEnum):
    """REGISTERED: announced, waiting for its command. INITIALIZING: ``start`` runs. STARTING: it has run, the health check
    does not say yes yet. Only RUNNING takes calls."""

    REGISTERED = "registered"
    INITIALIZING = "initializing"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


_S = InstanceState
TRANSITIONS: Final[Mapping[InstanceState, frozenset[InstanceState]]] = {
    _S.REGISTERED: frozenset({_S.INITIALIZING, _S.STOPPING, _S.FAILED}),
    _S.INITIALIZING: frozenset({_S.STARTING, _S.STOPPING, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset({_S.INITIALIZING}),
    _S.FAILED: frozenset({_S.INITIALIZING, _S.STOPPING, _S.STOPPED}),
}


class Lifecycle:
    """The state of this process's own instance; each step is checked."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._state = InstanceState.REGISTERED
        self.reason = ""

    @property
    def state(self) -> InstanceState:
        return self._state

    def advance(self, to: InstanceState, reason: str = "") -> None:
        """Take one step.

        Raises:
            IllegalTransition: there is no such step from here.
        """
        allowed = TRANSITIONS[self._state]
        if to not in allowed:
            raise IllegalTransition(self._subject, self._state, to, sorted(allowed))
        self._state, self.reason = to, reason


HEAVIEST: Final = 1000
"""Of weights, so that no instance can claim all calls for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An announcement.

    Attributes:
        service, id: the role and the process; the id is also the routing key of its inbox.
        incarnation: grows with each start of the process under the same id; an older one is ignored.
        sequence: grows with each announcement of one incarnation.
        state: only ``RUNNING`` takes calls.
        health: its own last check.
        version: semantic version of the service.
        capabilities: what it offers.
        weight: its share under weighted balancing, 1 to 1000.
        load: requests running and waiting in it.
        zone, host, pid: where it is.
        methods: method name to its options that callers need: ``{"idempotent": bool, "timeout": seconds or None}``.
        metadata: what the service adds.
    """

    service: str
    id: str
    incarnation: int
    sequence: int = 0
    state: InstanceState = InstanceState.REGISTERED
    health: Health = field(default_factory=lambda: Health.unknown("not checked yet"))
    version: str = "0.1.0"
    capabilities: tuple[str, ...] = ()
    weight: int = 1
    load: int = 0
    zone: str = ""
    host: str = ""
    pid: int = 0
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_calls(self) -> bool:
        return self.state is InstanceState.RUNNING

    @property
    def is_gone(self) -> bool:
        return self.state in (InstanceState.STOPPING, InstanceState.STOPPED)

    def newer_than(self, other: Instance) -> bool:
        return (self.incarnation, self.sequence) > (other.incarnation, other.sequence)

    def to_plain(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "id": self.id,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "state": str(self.state),
            "health": {"status": str(self.health.status), "reason": self.health.reason, "details": dict(self.health.details)},
            "version": self.version,
            "capabilities": list(self.capabilities),
            "weight": self.weight,
            "load": self.load,
            "zone": self.zone,
            "host": self.host,
            "pid": self.pid,
            "methods": {name: dict(options) for name, options in self.methods.items()},
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_plain(cls, data: Any) -> Instance:
        """The announcement in a payload, which comes from the network.

        Raises:
            InvalidMessage: it is none.
        """
        try:
            health = data["health"]
            return cls(
                service=_text(data["service"]),
                id=_text(data["id"]),
                incarnation=_count(data["incarnation"]),
                sequence=_count(data["sequence"]),
                state=InstanceState(data["state"]),
                health=Health(HealthStatus(health["status"]), str(health.get("reason", "")), dict(health.get("details") or {})),
                version=_text(data.get("version", "0.1.0")),
                capabilities=_texts(data.get("capabilities", [])),
                weight=min(max(1, _count(data.get("weight", 1))), HEAVIEST),
                load=_count(data.get("load", 0)),
                zone=str(data.get("zone", ""))[:200],
                host=str(data.get("host", ""))[:300],
                pid=_count(data.get("pid", 0)),
                methods={_text(name): dict(options) for name, options in (data.get("methods") or {}).items()},
                metadata=dict(data.get("metadata") or {}),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidMessage(f"not an announcement: {type(error).__name__}: {error}") from error

    def gone(self, state: InstanceState, reason: str) -> Instance:
        """The same instance as somebody else finds it: lost, without a word of its own."""
        return replace(self, state=state, health=Health.bad(reason))


def _text(value: Any) -> str:
    if type(value) is not str or not 0 < len(value.encode()) <= 200:
        raise ValueError("a name of 1 to 200 bytes was expected")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        raise ValueError("a list of names was expected")
    return tuple(dict.fromkeys(_text(item) for item in value))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a count was expected")
    return value
