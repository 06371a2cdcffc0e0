"""What is not wrong in a fleet file, but may surprise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fabric.coordination.fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One surprise. ``rule`` is a stable name for programs; ``source`` is ``file:line``."""

    rule: str
    message: str
    source: str | None


def findings(fleet: Fleet) -> list[Finding]:
    """In the order of the file."""
    found = [*_critical_on_optional(fleet), *_never_waited_for(fleet), *_outside_stages(fleet), *_started_by_others(fleet)]
    return sorted(found, key=lambda finding: int((finding.source or ":0").rpartition(":")[2]))


def _critical_on_optional(fleet: Fleet) -> Iterator[Finding]:
    for edge in fleet.graph.edges:
        if not edge.optional and fleet.graph[edge.dependent].critical and not fleet.graph[edge.dependency].critical:
            yield Finding(
                rule="critical-needs-optional",
                message=f"{edge.dependent} is critical and needs {edge.dependency}, which is not: "
                f"when that fails, {edge.dependent} starts without it",
                source=edge.source,
            )


def _never_waited_for(fleet: Fleet) -> Iterator[Finding]:
    for edge in fleet.graph.ignored:
        yield Finding(
            rule="ignored-edge",
            message=f"{edge.dependent} does not wait for {edge.dependency}: with other edges it would close a cycle",
            source=edge.source,
        )


def _outside_stages(fleet: Fleet) -> Iterator[Finding]:
    for service in fleet.definitions if fleet.stages else ():
        if not fleet.stage_of(service.name):
            yield Finding(
                rule="no-stage",
                message=f"{service.name} is in no stage: it starts by its dependencies alone and no gate holds it back",
                source=service.source,
            )


def _started_by_others(fleet: Fleet) -> Iterator[Finding]:
    for service in fleet.definitions:
        if not fleet.runs[service.name].is_ours:
            yield Finding(
                rule="started-elsewhere",
                message=f"{service.name} has neither run nor command: something else must start it, `fabric up` can't",
                source=service.source,
            )
