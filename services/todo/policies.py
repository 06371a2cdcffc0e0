"""Traffic policies in a file: read once, replaced whole at each change."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from fabric.errors import ConfigurationError
from services.todo.fleet_contracts import PolicyChange, PolicySet, TrafficPolicy


class RevisionConflict(Exception):
    """The policy of ``service`` has revision ``actual``, not ``expected``."""

    def __init__(self, service: str, expected: int, actual: int) -> None:
        super().__init__(f"the policy of {service} has revision {actual}, not {expected}")
        self.service, self.expected, self.actual = service, expected, actual


def changed(policies: PolicySet, change: PolicyChange) -> tuple[PolicySet, TrafficPolicy]:
    """The set with the change in it, one revision on, and the policy that it made.

    Raises:
        RevisionConflict: ``change.expected_revision`` is not the one there is.
    """
    current = policy_of(policies, change.service)
    if change.expected_revision is not None and change.expected_revision != current.revision:
        raise RevisionConflict(change.service, change.expected_revision, current.revision)
    made = TrafficPolicy(
        service=change.service,
        balancing=change.balancing,
        timeout=change.timeout,
        retry=change.retry,
        further=change.further,
        revision=policies.revision + 1,
    )
    others = tuple(policy for policy in policies.policies if policy.service != change.service)
    return PolicySet(revision=made.revision, policies=tuple(sorted((*others, made), key=lambda p: p.service))), made


def policy_of(policies: PolicySet, service: str) -> TrafficPolicy:
    """What was set for ``service``, or the default."""
    return next((policy for policy in policies.policies if policy.service == service), TrafficPolicy(service=service))


def load(path: Path) -> PolicySet:
    """What ``save`` wrote; empty when there is no file.

    Raises:
        ConfigurationError: it holds something else.
    """
    try:
        return PolicySet.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return PolicySet()
    except ValidationError as error:
        raise ConfigurationError(
            f"not a file of traffic policies: {error.error_count()} problems; mend it or move it away", source=str(path)
        ) from error


def save(path: Path, policies: PolicySet) -> None:
    """Replace the file at once: a crash leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(policies.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
