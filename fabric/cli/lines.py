"""A run as lines of text, one a change: what is shown where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

from fabric.coordination.status import RESTARTING, FleetStatus, RollStatus, ServiceStatus

_QUIET = frozenset({"waiting", "pending", "idle"})
"""States that everything begins in; to say so would only be noise."""


class Lines:
    """Writes what changed since the status before.

    Args:
        write: takes one line.
        now: seconds since 1970.
    """

    def __init__(self, write: Callable[[str], None], *, now: Callable[[], float] = time.time) -> None:
        self._write, self._now = write, now
        self._seen: dict[tuple[str, str], str] = {}
        self._settled = False

    def know(self, status: FleetStatus) -> None:
        """It was shown elsewhere: only what changes from here on is told."""
        write, self._write = self._write, lambda line: None
        self.show(status)
        self._write = write

    def show(self, status: FleetStatus) -> None:
        ready = sum(service.state == "ready" for service in status.services)
        head = f"{self._seconds(status):7.1f}s [{ready:{len(str(len(status.services)))}}/{len(status.services)}]"
        names = [*(service.name for service in status.services), *(stage.name for stage in status.stages)]
        width = max(map(len, names), default=0)
        for service in status.services:
            if self._is_new("service", service.name, _of_service(service), service.state):
                self._write(f"{head} {service.name:<{width}}  {_of_service(service)}".rstrip())
        for stage in () if status.state in ("stopping", "stopped") else status.stages:
            if self._is_new("stage", stage.name, stage.state, stage.state):
                waiting = f", waiting for {', '.join(stage.gate.waiting_for)}" if stage.gate.waiting_for else ""
                self._write(f"{head} {stage.name:<{width}}  stage {stage.state}{waiting}")
        if status.roll and self._is_new("restart", status.roll.id, roll_text(status.roll), status.roll.state):
            self._write(f"{head} {'restart':<{width}}  {roll_text(status.roll)}")
        if self._is_new("fleet", status.fleet, status.state, status.state):
            self._write(f"{head} {status.fleet:<{width}}  fleet {status.state}")
        self._settled = self._settled or status.state.is_settled

    def note(self, text: str) -> None:
        """Something that is not part of the run."""
        self._write(text)

    def close(self) -> None:
        """Nothing is pending here."""

    def _seconds(self, status: FleetStatus) -> float:
        """Since the start was asked for; the status itself stops counting when the start has ended."""
        if status.started_at is None or not self._settled:
            return status.elapsed
        return max(status.elapsed, self._now() - status.started_at)

    def _is_new(self, kind: str, name: str, now: str, state: str) -> bool:
        before = self._seen.get((kind, name))
        self._seen[kind, name] = now
        return now != before and not (before is None and state in _QUIET)


def _of_service(service: ServiceStatus) -> str:
    parts = [str(service.state)]
    if tried_again(service):
        parts.append(f"(attempt {service.attempt})")
    if service.wanted > 1:
        running = sum(instance.state == "running" for instance in service.instances)
        parts.append(f"{running}/{service.wanted}")
    text = " ".join(parts)
    if service.waiting_for and service.state in ("waiting", "blocked"):
        text += f", for {', '.join(service.waiting_for)}"
    return f"{text}: {reason}" if (reason := telling_reason(service)) else text


def telling_reason(service: ServiceStatus) -> str:
    """Its reason where the state alone does not say all."""
    again = service.state == "starting" and (service.attempt > 1 or service.reason == RESTARTING)
    return service.reason if again or service.state in ("failed", "blocked", "skipped") else ""


def tried_again(service: ServiceStatus) -> bool:
    """Whether it is worth telling how often it was started: not when it is up, for restarts count as well."""
    return service.attempt > 1 and service.state in ("starting", "failed") and service.reason != RESTARTING


def roll_text(roll: RollStatus) -> str:
    """A rolling restart in a few words."""
    because = f": {roll.reason}" if roll.reason and not roll.doing else ""
    return f"{roll.state}: {roll.doing}" if roll.doing else f"{roll.state}{because}"
