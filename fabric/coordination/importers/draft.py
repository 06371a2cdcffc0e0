"""A fleet as another tool describes it, on its way into a fleet file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from fabric.coordination.rewrite import duration, retry_entry
from fabric.errors import ConfigurationError
from fabric.startup.definition import Condition, Dependency, RetryPolicy, ServiceDefinition
from fabric.startup.graph import ServiceDependencyGraph

LEVELS: Final = ("critical", "high", "medium", "low")
"""Criticality as the OpenTelemetry attribute ``service.criticality`` has it, the most critical first."""
_CRITICAL: Final = frozenset({"", "critical", "high"})
_UNUSABLE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEdge:
    """A dependency. ``source`` is ``file:line``."""

    on: str
    condition: Condition = Condition.HEALTHY
    optional: bool = False
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftService:
    """One service.

    Attributes:
        name: as the other tool has it.
        command: its program, where the other tool starts plain processes.
        criticality: one of ``LEVELS``, or "" where nothing says; then it counts as critical, for other tools start nothing
            whose dependency failed.
        check: the command of its health check; None: it has none, and is ready when it has started.
        timeout: seconds to ready, None where nothing says.
        source: ``file:line``.
    """

    name: str
    edges: tuple[DraftEdge, ...] = ()
    command: tuple[str, ...] = ()
    criticality: str = ""
    check: Mapping[str, Any] | None = None
    timeout: float | None = None
    stop_timeout: float | None = None
    instances: int = 1
    restarts: bool = True
    retry: RetryPolicy | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    source: str

    @property
    def critical(self) -> bool:
        return self.criticality in _CRITICAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A fleet. Every edge leads to a service of it.

    Attributes:
        origin: what it was read from, for the head of the file.
        notes: what could not be taken over, or was decided on the way.
    """

    name: str
    services: Mapping[str, DraftService]
    origin: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def edges(self) -> tuple[tuple[str, DraftEdge], ...]:
        """All of them with the service that has them."""
        return tuple((service.name, edge) for service in self.services.values() for edge in service.edges)

    @property
    def risky_edges(self) -> tuple[tuple[str, DraftEdge], ...]:
        """Those from a service to one that is said to be less critical: what it needs may be neglected."""
        rank = {level: place for place, level in enumerate(LEVELS)}
        level = {service.name: rank.get(service.criticality) for service in self.services.values()}
        found = []
        for name, edge in self.edges:
            mine, its = level[name], level[edge.on]
            if mine is not None and its is not None and its > mine:
                found.append((name, edge))
        return tuple(found)

    @property
    def graph(self) -> ServiceDependencyGraph:
        """Who needs whom.

        Raises:
            DependencyCycle: services wait for each other, with the place of each edge.
        """
        return ServiceDependencyGraph(
            ServiceDefinition(
                name=service.name,
                critical=service.critical,
                dependencies=tuple(_dependency(edge) for edge in service.edges if not edge.optional),
                optional_dependencies=tuple(_dependency(edge) for edge in service.edges if edge.optional),
                source=service.source,
            )
            for service in self.services.values()
        )

    def text(self) -> str:
        """The fleet file.

        Raises:
            ConfigurationError: two services would have the same name in it.
        """
        names = fleet_names(self.services)
        head = [f"# Imported from {', '.join(self.origin)}.", *(f"# {note}" for note in self.notes)]
        if any(not service.command for service in self.services.values()):
            head.append("# Services without run or command are started elsewhere; add one where `fabric up` is to start them.")
        entry = {
            "name": usable(self.name),
            "services": {names[service.name]: _entry(service, names) for service in self.services.values()},
        }
        body = yaml.safe_dump(entry, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)
        return "\n".join([*head, "", body])


def checked(draft: Draft) -> Draft:
    """``draft`` if it holds together.

    Raises:
        ConfigurationError: edges lead to services that it does not have: all of them, with their places.
        DependencyCycle: services wait for each other.
    """
    unknown: dict[str, list[str]] = {}
    for name, edge in draft.edges:
        if edge.on not in draft.services:
            unknown.setdefault(edge.on, []).append(f"{edge.source}: {name} needs {edge.on}")
    if unknown:
        lines = [line for uses in unknown.values() for line in uses]
        raise ConfigurationError(
            f"{len(unknown)} services are named and not defined: {', '.join(sorted(unknown))}; "
            "give the files that define them too\n" + "\n".join(f"  {line}" for line in lines)
        )
    draft.graph.order()  # raises where services wait for each other
    return draft


def usable(name: str) -> str:
    """``name`` as far as a fleet file may have it."""
    return (_UNUSABLE.sub("-", name).strip("-_") or "fleet")[:100]


def fleet_names(services: Iterable[str]) -> dict[str, str]:
    """The name in the fleet file for each given name.

    Raises:
        ConfigurationError: two would be the same.
    """
    names: dict[str, str] = {}
    for name in services:
        new = usable(name)
        if other := next((old for old, taken in names.items() if taken == new), None):
            raise ConfigurationError(f"{name!r} and {other!r} would both be {new!r} in a fleet file; rename one of them")
        names[name] = new
    return names


def _dependency(edge: DraftEdge) -> Dependency:
    return Dependency(on=edge.on, condition=edge.condition, source=edge.source)


def _entry(service: DraftService, names: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"command": list(service.command)} if service.command else {}
    entry["critical"] = service.critical
    for key, optional in (("dependencies", False), ("optional_dependencies", True)):
        edges = [edge for edge in service.edges if edge.optional is optional]
        if all(edge.condition is Condition.HEALTHY for edge in edges):
            entry[key] = [names[edge.on] for edge in edges]
        else:
            entry[key] = {names[edge.on]: {"condition": str(edge.condition)} for edge in edges}
    if service.timeout is not None:
        entry["timeout"] = duration(service.timeout)
    if service.stop_timeout is not None:
        entry["stop_timeout"] = duration(service.stop_timeout)
    if service.instances > 1:
        entry["instances"] = service.instances
    if not service.restarts:
        entry["restart"] = "never"
    if service.retry is not None:
        entry["retry"] = retry_entry(service.retry)
    if service.resources:
        entry["resources"] = dict(service.resources)
    entry["health_checks"] = [] if service.check is None else [dict(service.check)]
    return {key: value for key, value in entry.items() if value != [] or key == "health_checks"}
