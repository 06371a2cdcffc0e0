"""What of a fleet file is not wrong but may surprise: what the lint of its plan finds, and what only its file tells."""

from __future__ import annotations

from collections.abc import Iterator

from fabric.coordination.fleet import Fleet
from fabric.startup.lint import Finding, Severity, lint


def findings(fleet: Fleet) -> list[Finding]:
    """In the order of the file."""
    found = [*lint(fleet.definitions, fleet.stages), *_outside_stages(fleet), *_started_by_others(fleet)]
    return sorted(found, key=lambda finding: int((finding.source or ":0").rpartition(":")[2]))


def _outside_stages(fleet: Fleet) -> Iterator[Finding]:
    for service in fleet.definitions if fleet.stages else ():
        if not fleet.stage_of(service.name):
            yield Finding(
                severity=Severity.WARNING,
                rule="no-stage",
                subject=service.name,
                message=f"{service.name} is in no stage: it starts by its dependencies alone and no gate holds it back",
                source=service.source,
            )


def _started_by_others(fleet: Fleet) -> Iterator[Finding]:
    for service in fleet.definitions:
        if not fleet.runs[service.name].is_ours:
            yield Finding(
                severity=Severity.WARNING,
                rule="started-elsewhere",
                subject=service.name,
                message=f"{service.name} has neither run nor command: something else must start it, `fabric up` can't",
                source=service.source,
            )
