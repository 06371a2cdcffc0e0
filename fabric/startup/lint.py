"""What is wrong or risky in a fleet, found before anything is started."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fabric.errors import ConfigurationError, UnknownName
from fabric.startup.cycles import edges_to_relax, find_cycles
from fabric.startup.definition import Edge, ServiceDefinition
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.paths import reachable
from fabric.startup.plan import gate_edges, stage_problems
from fabric.startup.stages import StartupStage


class Severity(enum.StrEnum):
    """ERROR: the fleet is refused. WARNING: it starts, but think again."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        rule: a stable name, such as ``cycle`` or ``risky-edge``.
        subject: the service or stage it is about.
        message: what is wrong and what to do.
        source: ``file:line``.
    """

    severity: Severity
    rule: str
    subject: str
    message: str
    source: str | None = None

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return f"{where}{self.severity}: {self.message} [{self.rule}]"


def lint(services: Iterable[ServiceDefinition], stages: Sequence[StartupStage] = ()) -> tuple[Finding, ...]:
    """Everything that is wrong or risky, errors first. It never raises: what it is given may be as broken as it likes."""
    given = tuple(services)
    findings = [*_names(given), *_cycles(given)]
    try:
        graph = ServiceDependencyGraph(given)
    except ConfigurationError:
        return _sorted(findings)
    findings += [
        Finding(severity=Severity.ERROR, rule=rule, subject=stage, message=_plain(error), source=error.source)
        for rule, stage, error in stage_problems(graph, stages)
    ]
    findings += _risky_edges(graph)
    findings += _ignored(graph)
    if not any(finding.severity is Severity.ERROR for finding in findings):
        findings += [*_gate_cycles(graph, stages), *_stage_order(graph, stages), *_gates(graph, stages)]
    return _sorted(findings)


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda finding: (finding.severity, finding.rule, finding.subject, finding.message)))


def _plain(error: ConfigurationError) -> str:
    """The text of an error without its source, which a finding has apart."""
    text = str(error)
    return text.removeprefix(f"{error.source}: ") if error.source else text


def _error(rule: str, subject: str, error: ConfigurationError) -> Finding:
    return Finding(severity=Severity.ERROR, rule=rule, subject=subject, message=_plain(error), source=error.source)


def _names(services: Sequence[ServiceDefinition]) -> list[Finding]:
    known = {service.name for service in services}
    seen: set[str] = set()
    found = []
    for service in services:
        if service.name in seen:
            message = f"{service.name} is defined twice; remove one of them"
            found.append(
                Finding(severity=Severity.ERROR, rule="duplicate", subject=service.name, message=message, source=service.source)
            )
        seen.add(service.name)
        for edge in service.edges():
            if edge.dependency not in known:
                error = UnknownName("service", edge.dependency, used_by=edge.dependent, known=tuple(known), source=edge.source)
                found.append(_error("unknown-service", edge.dependent, error))
    return found


def _cycles(services: Sequence[ServiceDefinition]) -> list[Finding]:
    """Each cycle of required edges, and once the fewest edges that break them all."""
    edges = [edge for service in services for edge in service.edges() if not edge.optional]
    critical = {service.name for service in services if service.critical}
    return _cycle_findings(edges, "cycle", critical)


def _cycle_findings(edges: Sequence[Edge], rule: str, critical: set[str]) -> list[Finding]:
    cycles = find_cycles(edges)
    if not cycles.found:
        return []
    relax = edges_to_relax(edges, prefer=lambda edge: edge.dependency not in critical)
    names = ", ".join(str(edge) for edge in relax.edges)
    advice = f"making {names} optional breaks every cycle" + ("; no fewer edges do" if relax.exact else "")
    if not cycles.complete:
        advice = f"there are more than {len(cycles.found)} cycles; {advice}"
    return [
        Finding(
            severity=Severity.ERROR,
            rule=rule,
            subject=cycle.path[0],
            message=f"dependency cycle {' -> '.join(cycle.path)} ({', '.join(_at(edge) for edge in cycle.edges)}); {advice}",
            source=next((edge.source for edge in cycle.edges if edge.source), None),
        )
        for cycle in cycles.found
    ]


def _at(edge: Edge) -> str:
    return f"{edge.dependent} needs {edge.dependency}" + (f" at {edge.source}" if edge.source else "")


def _risky_edges(graph: ServiceDependencyGraph) -> list[Finding]:
    return [
        Finding(
            severity=Severity.WARNING,
            rule="risky-edge",
            subject=edge.dependent,
            message=f"{edge.dependent} is critical and needs {edge.dependency}, which is not: when {edge.dependency} fails, "
            f"{edge.dependent} waits out all its attempts and then runs without it; make the edge optional or "
            f"{edge.dependency} critical",
            source=edge.source,
        )
        for edge in graph.edges
        if not edge.optional and graph[edge.dependent].critical and not graph[edge.dependency].critical
    ]


def _ignored(graph: ServiceDependencyGraph) -> list[Finding]:
    return [
        Finding(
            severity=Severity.WARNING,
            rule="optional-cycle",
            subject=edge.dependent,
            message=f"{edge.dependent} does not wait for its optional {edge.dependency}, which waits for {edge.dependent} itself",
            source=edge.source,
        )
        for edge in graph.ignored
    ]


def _gate_cycles(graph: ServiceDependencyGraph, stages: Sequence[StartupStage]) -> list[Finding]:
    """A gate that waits for a service that waits for the gate."""
    stage_of = {service: index for index, stage in enumerate(stages) for service in stage.services}
    gates = gate_edges(stages, stage_of, frozenset())
    edges = [edge for edge in (*graph.edges, *gates) if not edge.optional]
    return _cycle_findings(edges, "gate-cycle", {name for name in graph if graph[name].critical})


def _stage_order(graph: ServiceDependencyGraph, stages: Sequence[StartupStage]) -> list[Finding]:
    stage_of = {service: index for index, stage in enumerate(stages) for service in stage.services}
    found = []
    for edge in graph.edges:
        mine, other = stage_of.get(edge.dependent), stage_of.get(edge.dependency)
        if mine is not None and other is not None and other > mine:
            message = (
                f"{edge.dependent} in stage {stages[mine].name} waits for {edge.dependency} in the later stage "
                f"{stages[other].name}; move one of them"
            )
            found.append(
                Finding(
                    severity=Severity.WARNING, rule="stage-order", subject=edge.dependent, message=message, source=edge.source
                )
            )
    return found


def _gates(graph: ServiceDependencyGraph, stages: Sequence[StartupStage]) -> list[Finding]:
    found = []
    gated = {name for stage in stages for name in stage.health_gate.required}
    # What a gated service needs is gated with it.
    gated |= reachable(gated, {name: [edge.dependency for edge in graph.needs(name) if not edge.optional] for name in graph})
    for name in graph if stages else ():
        if graph[name].critical and name not in gated:
            message = f"{name} is critical, and no gate asks for it: stages go on without it; name it in a gate"
            found.append(
                Finding(
                    severity=Severity.WARNING,
                    rule="ungated-critical",
                    subject=name,
                    message=message,
                    source=graph[name].source,
                )
            )
    for stage in stages:
        for name in stage.health_gate.required:
            if not graph[name].critical and not stage.skip_on_timeout:
                message = (
                    f"the gate of stage {stage.name} requires {name}, which is not critical: when it fails, no later stage "
                    f"starts; make it optional in the gate, or let the stage skip on timeout"
                )
                source = stage.health_gate.source or stage.source
                found.append(
                    Finding(severity=Severity.WARNING, rule="gate-on-optional", subject=name, message=message, source=source)
                )
    return found
