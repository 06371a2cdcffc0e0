"""What came of a run, as text: one line, what failed and why, and the profile."""

from __future__ import annotations

from collections.abc import Callable

from fabric.coordination.status import FailureReport, FleetStatus, RunState
from fabric.startup.codec import load
from fabric.startup.profile import StartupProfile
from fabric.startup.some import some


def summary(status: FleetStatus) -> str:
    """One line."""
    up = sum(service.state == "ready" for service in status.services)
    whole = f"{up} of {len(status.services)} services in {status.elapsed:.1f} s"
    match status.state:
        case RunState.UP:
            return f"{status.fleet} is up: {whole}"
        case RunState.DEGRADED:
            return f"{status.fleet} is up without some of its optional services: {whole}"
        case RunState.FAILED:
            return f"{status.fleet} did not come up: {whole}"
        case state:
            return f"{status.fleet} is {state}: {whole}"


def report(status: FleetStatus, *, log_of: Callable[[str], tuple[str, ...]] = lambda service: (), lines: int = 15) -> str:
    """What failed, why, who waits for it, and what to do; root causes first. Empty when nothing failed.

    Args:
        log_of: the last lines that a service wrote, for causes that came without.
        lines: how much of each log.
    """
    return "\n".join(line for cause in status.report for line in _of_cause(cause, log_of, lines))


def profile_of(status: FleetStatus) -> StartupProfile | None:
    """The profile of a start that has ended."""
    return None if status.profile is None else load(StartupProfile, status.profile)


def _of_cause(cause: FailureReport, log_of: Callable[[str], tuple[str, ...]], lines: int) -> list[str]:
    kind = "critical" if cause.critical else "not critical"
    text = [f"{cause.service} ({kind}): {cause.reason}"]
    if cause.attempts > 1:
        text.append(f"  tried {cause.attempts} times")
    if cause.blocked:
        text.append(f"  not started because of it: {some(cause.blocked)}")
    if cause.advice:
        text.append(f"  what to do: {cause.advice}")
    if log := (cause.log or log_of(cause.service))[-lines:]:
        text += ["  the end of its log:", *(f"    {line}" for line in log)]
    return text
