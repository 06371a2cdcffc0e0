"""The shape of a fleet file: which keys there are and what each may hold. Units are taken off here."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fabric.transports.topology import check_name

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def seconds(value: object) -> float:
    """A duration as a person writes it: ``500ms``, ``30s``, ``2m``, ``1h``; a bare number is seconds.

    Raises:
        ValueError: anything else; negative or endless.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    raise ValueError(f"{value!r} is not a duration; write 500ms, 30s, 2m, 1h or a number of seconds")


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than nothing")
    return value


def _argv(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


def _edges(value: object) -> object:
    """A list of names is the short form of a mapping from names to conditions."""
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                raise ValueError(f"{item!r} is not the name of a service")
            if value.count(item) > 1:
                raise ValueError(f"{item!r} is there twice")
        return {item: {} for item in value}
    if isinstance(value, dict):
        return {name: {} if item is None else item for name, item in value.items()}
    raise ValueError("must be a list of services, or a mapping from services to conditions")


def _check(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


def _target(value: str) -> str:
    if not _TARGET.fullmatch(value):
        raise ValueError(f"{value!r} is not MODULE:CLASS, such as services.todo.prisma:PrismaService")
    return value


Duration = Annotated[float, BeforeValidator(seconds)]
PositiveDuration = Annotated[float, BeforeValidator(seconds), AfterValidator(_above_zero)]
Name = Annotated[str, AfterValidator(lambda name: check_name("name", name))]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Entry(BaseModel):
    """Keys that are not named are refused, and text is never taken for a number or the reverse."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EdgeEntry(Entry):
    condition: Literal["started", "healthy", "completed"] = "healthy"


Edges = Annotated[dict[Name, EdgeEntry], BeforeValidator(_edges)]


class RetryEntry(Entry):
    attempts: Count = 3
    delay: Duration = 0.5
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    max_delay: Duration = 30.0
    reset_after: Duration = 60.0


class CheckEntry(Entry):
    """``method`` alone is short for ``{kind: method}``."""

    kind: Literal["method", "http", "tcp", "command", "dependency"]
    target: str = ""
    interval: PositiveDuration = 2.0
    timeout: PositiveDuration = 5.0
    expect: str = ""

    @model_validator(mode="after")
    def _has_target(self) -> Self:
        if (self.kind == "method") == bool(self.target):
            raise ValueError("kind method has no target" if self.target else f"a check of kind {self.kind} needs a target")
        if self.expect and (self.kind != "http" or not re.fullmatch(r"[1-5]\d\d", self.expect)):
            raise ValueError(f"expect is the status that a check of kind http wants, such as '204', not {self.expect!r}")
        return self

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        """A target with a variable is looked at when the variable is known."""
        if self.kind == "http":
            url = urlsplit(self.target)
            if "$" not in self.target and (url.scheme not in ("http", "https") or not url.hostname):
                raise ValueError(f"{self.target!r} is not a URL such as http://127.0.0.1:8080/health")
            if "@" in url.netloc:
                raise ValueError("the URL of a check must not hold a password, which would be in reports and logs")
        if self.kind == "tcp" and "$" not in self.target and not re.fullmatch(r".+:\d+", self.target):
            raise ValueError(f"{self.target!r} is not HOST:PORT")
        return self


class ServiceEntry(Entry):
    """One service. ``run`` or ``command`` says how; a fleet that only coordinates processes of others has neither."""

    run: Annotated[str, AfterValidator(_target)] | None = None
    command: Annotated[list[str] | None, BeforeValidator(_argv)] = None
    cwd: str | None = None
    env: dict[str, Any] = Field(default_factory=dict)
    restart: Literal["never", "on-failure"] = "on-failure"
    critical: bool = False
    dependencies: Edges = Field(default_factory=dict)
    optional_dependencies: Edges = Field(default_factory=dict)
    timeout: PositiveDuration = 30.0
    stop_timeout: PositiveDuration = 10.0
    instances: Count = 1
    retry: RetryEntry | None = None
    resources: dict[str, Amount] = Field(default_factory=dict)
    capabilities: list[Name] = Field(default_factory=list)
    health_checks: list[Annotated[CheckEntry, BeforeValidator(_check)]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.run and self.command:
            raise ValueError("has both run and command; keep one of them")
        if self.command == []:
            raise ValueError("the command is empty")
        if both := self.dependencies.keys() & self.optional_dependencies.keys():
            raise ValueError(f"{min(both)!r} is both a dependency and an optional one; keep one of them")
        return self


class GateEntry(Entry):
    required: list[Name] = Field(default_factory=list)
    optional: list[Name] = Field(default_factory=list)
    instances: dict[Name, Count] = Field(default_factory=dict)
    stable_for: Duration = 0.0
    successes: Count = 1


class StageEntry(Entry):
    name: Name
    services: list[Name]
    gate: GateEntry = GateEntry()
    timeout: PositiveDuration = 60.0
    skip_on_timeout: bool = False
    retry: RetryEntry | None = None


class PoliciesEntry(Entry):
    """How calls are treated, as ``fabric.routing.policies`` has it in plain form; ``from`` hands out more, live."""

    from_: Name | None = Field(default=None, alias="from")
    default: dict[str, Any] = Field(default_factory=dict)
    services: dict[str, dict[str, Any]] = Field(default_factory=dict)


class PredictionEntry(Entry):
    """Written by ``fabric optimize``: seconds before and after, and the likely range of what is saved."""

    before: Amount
    after: Amount
    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]


class FleetEntry(Entry):
    """The whole file. Keys that begin with ``x-`` are the author's own, for anchors."""

    name: Name
    namespace: Name | None = None
    slots: Count | None = None
    budgets: dict[str, Amount] = Field(default_factory=dict)
    fork_server: Literal[True, False, "preload"] = True
    services: dict[Name, ServiceEntry] = Field(min_length=1)
    stages: list[StageEntry] = Field(default_factory=list)
    policies: PoliciesEntry = PoliciesEntry()
    prediction: PredictionEntry | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_own_keys(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if not str(key).startswith("x-")}
        return value


def keys_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the entry at ``location`` may have, to suggest the one that was meant."""
    match location:
        case ():
            return list(FleetEntry.model_fields)
        case ("services", _):
            return list(ServiceEntry.model_fields)
        case ("stages", _):
            return list(StageEntry.model_fields)
        case ("stages", _, "gate"):
            return list(GateEntry.model_fields)
        case ("policies",):
            return ["from", "default", "services"]
        case (*_, "retry"):
            return list(RetryEntry.model_fields)
        case (*_, "health_checks", _):
            return list(CheckEntry.model_fields)
        case _:
            return list(EdgeEntry.model_fields)
