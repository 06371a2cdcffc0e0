"""A run as a table that changes in place: stages, services, states, progress."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fabric.cli.lines import roll_text, telling_reason, tried_again
from fabric.coordination.status import FleetStatus, RollStatus, ServiceStatus, StageStatus

_LOOKS: Final = {
    "waiting": ("○", "dim"),
    "starting": ("◐", "yellow"),
    "ready": ("●", "green"),
    "failed": ("✗", "bold red"),
    "blocked": ("⊘", "red"),
    "skipped": ("–", "dim"),
    "stopping": ("◑", "yellow"),
    "stopped": ("○", "dim"),
    "pending": ("", "dim"),
    "open": ("", "green"),
    "idle": ("", "dim"),
    "up": ("", "bold green"),
    "degraded": ("", "bold yellow"),
    "cancelled": ("", "bold red"),
}
_BUSY = frozenset({"starting", "stopping"})


class Board:
    """Redraws itself a few times a second until it is closed; what is on it then stays on the screen.

    Attributes:
        last: what it shows.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.last: FleetStatus | None = None
        self._heard = 0.0
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._draw, transient=False)

    def show(self, status: FleetStatus) -> None:
        self.last, self._heard = status, time.monotonic()
        if not self._live.is_started:
            self._live.start()

    def note(self, text: str) -> None:
        """A line above the table."""
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def _draw(self) -> RenderableType:
        status = self.last
        if status is None:
            return Text()
        moving = status.state in _BUSY
        if moving and self._live.is_started:
            status = status.model_copy(update={"elapsed": status.elapsed + time.monotonic() - self._heard})
        return fleet_table(status, now=time.time(), height=self._console.height)


def fleet_table(status: FleetStatus, *, now: float, height: int | None = None) -> RenderableType:
    """All of a status.

    Args:
        now: seconds since 1970, to say how long something has been going on.
        height: lines there are; stages that are done become one line where it would be more. None: no limit.
    """
    table = Table.grid(padding=(0, 2))
    for _ in range(5):
        table.add_column(overflow="fold")
    crowded = height is not None and len(status.services) + len(status.stages) + 3 > height
    grouped: dict[str, list[ServiceStatus]] = {stage.name: [] for stage in status.stages}
    for service in status.services:
        grouped.setdefault(service.stage, []).append(service)
    stages = {stage.name: stage for stage in status.stages}
    for name, services in grouped.items():
        if not services:
            continue
        if crowded and all(service.state in ("ready", "skipped") for service in services):
            table.add_row("", Text(name, "bold"), Text(f"{len(services)} services up", "green"))
            continue
        stage = stages.get(name)
        leaving = status.state in ("stopping", "stopped")
        table.add_row("", Text(name or "no stage", "bold"), *_of_stage(None if leaving else stage))
        for service in services:
            table.add_row(*_of_service(service, now))
    if status.roll is not None and not status.roll.over:
        now_doing = Text(roll_text(status.roll), "yellow")
        table.add_row("", Text("restart", "bold"), now_doing, Text(), Text(_left(status.roll), "dim"))
    return Group(_head(status), table)


def _left(roll: RollStatus) -> str:
    return f"{roll.left} step{'' if roll.left == 1 else 's'} left"


def _head(status: FleetStatus) -> RenderableType:
    _, style = _LOOKS.get(status.state, ("", ""))
    ready = sum(service.state == "ready" for service in status.services)
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(status.fleet, "bold"),
        Text(status.state, style),
        Text(f"{status.elapsed:.1f} s"),
        ProgressBar(total=1.0, completed=status.progress, width=30),
        Text(f"{ready}/{len(status.services)}"),
    )
    return head


def _of_stage(stage: StageStatus | None) -> tuple[Text, Text, Text]:
    if stage is None:
        return Text(), Text(), Text()
    _, style = _LOOKS.get(stage.state, ("", ""))
    elapsed = f"{stage.elapsed:.1f} s" if stage.elapsed is not None else ""
    waiting = f"waits for {', '.join(stage.gate.waiting_for)}" if stage.gate.waiting_for and stage.state == "starting" else ""
    return Text(stage.state, style), Text(elapsed, "dim", justify="right"), Text(waiting, "dim")


def _of_service(service: ServiceStatus, now: float) -> tuple[Text, Text, Text, Text, Text]:
    sign, style = _LOOKS.get(service.state, ("?", ""))
    name = Text(f"{sign} ", style) + Text(service.name, "" if service.critical else "italic")
    busy = service.state in _BUSY and service.since is not None
    facts = []
    if service.wanted > 1:
        running = sum(instance.state == "running" for instance in service.instances)
        facts.append(f"{running}/{service.wanted} instances")
    if tried_again(service):
        facts.append(f"attempt {service.attempt}")
    if service.waiting_for and service.state in ("waiting", "blocked"):
        facts.append(f"for {', '.join(service.waiting_for)}")
    if reason := telling_reason(service):
        facts.append(reason)
    took = f"{max(0.0, now - (service.since or now)):.1f} s" if busy else ""
    return Text(" "), name, Text(service.state, style), Text(took, "dim", justify="right"), Text("; ".join(facts), "dim")
