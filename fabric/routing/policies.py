"""How calls to each service are treated, as values that are checked when made and can be replaced while calls go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Final

from fabric.errors import ConfigurationError
from fabric.routing.balancing import strategy
from fabric.routing.breaker_policy import BreakerPolicy
from fabric.routing.ejection_policy import EjectionPolicy
from fabric.routing.retry import RetryPolicy

NEAR: Final = ("host", "zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePolicy:
    """How calls to one service, or by one capability, are treated.

    Attributes:
        balancing: round-robin, least-connections, weighted, random or p2c.
        prefer: ``host``, ``zone`` or both, nearest first: instances in the same one as the caller are called as long as there
            are any. Saves the way, and leaves the others idle.
        retry: of failed attempts.
        breaker: of the whole service, as seen by this hub; None: it is called whatever happens.
        ejection: of single instances; None: none is ever left out.
        hedge_after: seconds without an answer after which an idempotent call is sent to a second instance as well, and the
            first answer counts; None: never. Less cuts the tail, and costs load; it draws on the retry budget.
        timeout: seconds that a call may take when neither it nor the method says; None: the settings' ``call_timeout``.
    """

    balancing: str = "round-robin"
    prefer: tuple[str, ...] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy | None = field(default_factory=BreakerPolicy)
    ejection: EjectionPolicy | None = field(default_factory=EjectionPolicy)
    hedge_after: float | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        strategy(self.balancing)
        if not all(near in NEAR for near in self.prefer):
            raise ConfigurationError(f"prefer can be {' and '.join(NEAR)}, not {self.prefer}")
        if self.hedge_after is not None and not 0 < self.hedge_after < 3600:
            raise ConfigurationError(f"hedge_after must be seconds above 0, not {self.hedge_after}")
        if self.timeout is not None and not 0 < self.timeout <= 86_400:
            raise ConfigurationError(f"timeout must be seconds above 0 and up to a day, not {self.timeout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Everybody's.

    Attributes:
        default: for whom nothing else is said.
        services: by service name, or ``capability:NAME``.
        revision: of this set; a hub that is handed several takes the highest.
    """

    default: RoutePolicy = field(default_factory=RoutePolicy)
    services: Mapping[str, RoutePolicy] = field(default_factory=dict)
    revision: int = 0

    def of(self, label: str) -> RoutePolicy:
        return self.services.get(label, self.default)

    def varied(self, **changes: Any) -> Policies:
        """The same with another default, as far as the changes are not None."""
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, default=replace(self.default, **given)) if given else self

    def to_plain(self) -> dict[str, Any]:
        return {
            "revision": self.revision,
            "default": asdict(self.default),
            "services": {name: asdict(policy) for name, policy in self.services.items()},
        }

    @classmethod
    def from_plain(cls, data: Any) -> Policies:
        """From a file, the environment or the bus: ``{"default": {...}, "services": {name: {...}}, "revision": n}``.

        What a service leaves out is as in ``default``, and what that leaves out as here.

        Raises:
            ConfigurationError: anything in it is unknown or can't work. Nothing of it is taken then.
        """
        return cls().overlaid(data)

    def overlaid(self, data: Any) -> Policies:
        """These, with what ``data`` says in their place; see ``from_plain``.

        Raises:
            ConfigurationError: as there.
        """
        if not isinstance(data, Mapping) or not set(data) <= {"default", "services", "revision"}:
            raise ConfigurationError("policies are a map with default, services and revision, and nothing else")
        services, revision = data.get("services", {}), data.get("revision", self.revision)
        if not isinstance(services, Mapping) or not isinstance(revision, int):
            raise ConfigurationError("services is a map of policies by name, and revision a number")
        default = _over(asdict(self.default), data.get("default", {}), "default")
        bases = {name: asdict(policy) for name, policy in self.services.items()}
        made = {str(name): _policy(_over(bases.get(name, default), given, name), str(name)) for name, given in services.items()}
        return Policies(default=_policy(default, "default"), services={**self.services, **made}, revision=revision)


def _over(base: Mapping[str, Any], given: Any, where: object) -> dict[str, Any]:
    """``base`` with what is given in its place, map by map."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"policy {where}: a map is expected, not a {type(given).__name__}")
    merged = dict(base)
    for name, value in given.items():
        below = merged.get(name)
        merged[name] = _over(below, value, where) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RoutePolicy)


def _policy(data: Mapping[str, Any], where: str) -> RoutePolicy:
    from pydantic import ValidationError

    unknown = _unknown(data, asdict(RoutePolicy(breaker=BreakerPolicy(), ejection=EjectionPolicy())))
    if unknown:
        raise ConfigurationError(f"policy {where}: there is no {', '.join(sorted(unknown))}")
    try:
        policy = _adapter().validate_python(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy {where}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"policy {where}: {place}: {first['msg']}") from None
    assert isinstance(policy, RoutePolicy)
    return policy


def _unknown(data: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> set[str]:
    found = {prefix + str(name) for name in data if name not in known}
    for name, value in data.items():
        below = known.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            found |= _unknown(value, below, f"{prefix}{name}.")
    return found
