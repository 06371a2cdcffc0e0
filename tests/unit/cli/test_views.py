"""What a run looks like: as lines, as a table, and what is said of failures."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from fabric.cli.board import fleet_table
from fabric.cli.lines import Lines
from fabric.cli.outcome import report, summary
from fabric.coordination.status import (
    RESTARTING,
    FailureReport,
    FleetStatus,
    GateStatus,
    InstanceStatus,
    RollStatus,
    RunState,
    ServiceState,
    ServiceStatus,
    StageState,
    StageStatus,
)


def service(name: str, state: ServiceState, stage: str = "base", **facts: Any) -> ServiceStatus:
    return ServiceStatus(name=name, stage=stage, state=state, critical=name != "mail", **facts)


def fleet(state: RunState, *services: ServiceStatus, elapsed: float = 1.0, **facts: Any) -> FleetStatus:
    return FleetStatus(fleet="shop", run="r1", epoch=1, state=state, elapsed=elapsed, services=services, **facts)


STARTING = fleet(
    RunState.STARTING,
    service("store", ServiceState.READY, since=90.0, wanted=2, instances=(InstanceStatus(id="store-1", state="running"),)),
    service("cache", ServiceState.STARTING, since=97.5, attempt=2, reason="port 80 is taken"),
    service("web", ServiceState.WAITING, "front", waiting_for=("cache", "gate:base")),
    stages=(
        StageStatus(name="base", state=StageState.STARTING, gate=GateStatus(waiting_for=("cache",)), elapsed=2.0),
        StageStatus(name="front", state=StageState.PENDING),
    ),
    progress=0.5,
    elapsed=10.0,
)


def shown(status: FleetStatus, *, height: int | None = None, width: int = 100) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, color_system=None).print(fleet_table(status, now=100.0, height=height))
    return "\n".join(line.rstrip() for line in screen.getvalue().rstrip().splitlines())


def test_the_table_has_stages_services_and_what_they_wait_for() -> None:
    """Services stand under their stage, with state, running time, instances, attempts and what they wait for."""
    text = shown(STARTING)
    head, *rows = [" ".join(line.split()) for line in text.splitlines()]
    assert head.startswith("shop starting 10.0 s")
    assert head.endswith("1/3")
    assert rows == [
        "base starting 2.0 s waits for cache",
        "● store ready 1/2 instances",
        "◐ cache starting 2.5 s attempt 2; port 80 is taken",
        "front pending",
        "○ web waiting for cache, gate:base",
    ]


def test_a_restart_is_told_and_its_starts_are_no_failed_attempts() -> None:
    """What a rolling restart does at the moment is in the table and a line of its own; how often something was started is told of
    what is not up only."""
    again = service("store", ServiceState.STARTING, since=98.0, attempt=4, reason=RESTARTING)
    roll = RollStatus(id="r1", state="running", over=False, services=("store",), doing="starting store-1", left=3)
    during = fleet(RunState.UP, again, service("web", ServiceState.READY, attempt=2), roll=roll)
    rows = [" ".join(line.split()) for line in shown(during).splitlines()[1:]]
    assert rows == [
        "base",
        "◐ store starting 2.0 s it is being restarted",
        "● web ready",
        "restart running: starting store-1 3 steps left",
    ]
    written: list[str] = []
    lines = Lines(written.append)
    lines.show(during)
    over = roll.model_copy(update={"state": "reverted", "over": True, "doing": "", "reason": "no table"})
    lines.show(fleet(RunState.UP, service("store", ServiceState.READY, attempt=5), roll=over))
    assert [" ".join(line.partition("] ")[2].split()) for line in written if "restart" in line] == [
        "store starting: it is being restarted",
        "restart running: starting store-1",
        "restart reverted: no table",
    ]


def test_what_comes_from_services_is_not_taken_for_markup() -> None:
    """A reason with brackets is shown as it is."""
    status = fleet(RunState.FAILED, service("store", ServiceState.FAILED, reason="[bold]no[/] [link=x]"))
    assert "[bold]no[/] [link=x]" in shown(status)


def test_a_low_terminal_shows_what_is_still_coming() -> None:
    """Where not everything fits, stages that are done become one line."""
    services = [service(f"s{number}", ServiceState.READY) for number in range(20)]
    text = shown(fleet(RunState.STARTING, *services, service("web", ServiceState.STARTING, "front")), height=12)
    assert "20 services up" in text
    assert "◐ web" in text
    assert len(text.splitlines()) == 4


def test_lines_tell_changes_once() -> None:
    """Each change is one line with time and count; what did not change, and what everything begins with, is not told."""
    written: list[str] = []
    lines = Lines(written.append)
    lines.show(fleet(RunState.STARTING, service("store", ServiceState.WAITING), service("mail", ServiceState.WAITING)))
    before = fleet(RunState.STARTING, service("store", ServiceState.STARTING), service("mail", ServiceState.WAITING))
    lines.show(before)
    lines.show(before)
    lines.show(
        fleet(
            RunState.UP,
            service("store", ServiceState.READY, wanted=2, instances=(InstanceStatus(id="store-1", state="running"),)),
            service("mail", ServiceState.FAILED, reason="no server", attempt=3),
            elapsed=2.25,
            stages=(StageStatus(name="base", state=StageState.OPEN),),
        )
    )
    assert written == [
        "    1.0s [0/2] shop   fleet starting",
        "    1.0s [0/2] store  starting",
        "    2.2s [1/2] store  ready 1/2",
        "    2.2s [1/2] mail   failed (attempt 3): no server",
        "    2.2s [1/2] base   stage open",
        "    2.2s [1/2] shop   fleet up",
    ]


def test_a_service_that_goes_back_to_waiting_is_told() -> None:
    """Waiting is only left out at the beginning."""
    written: list[str] = []
    lines = Lines(written.append)
    lines.show(fleet(RunState.STARTING, service("web", ServiceState.STARTING)))
    lines.show(fleet(RunState.STARTING, service("web", ServiceState.WAITING, waiting_for=("store",))))
    assert written[-1].endswith("web  waiting, for store")


def test_what_was_shown_elsewhere_is_not_told_again() -> None:
    """After a table, lines tell only what changes, with the time since the beginning."""
    written: list[str] = []
    lines = Lines(written.append, now=lambda: 160.0)
    lines.know(fleet(RunState.UP, service("store", ServiceState.READY), started_at=100.0))
    lines.show(fleet(RunState.UP, service("store", ServiceState.READY), started_at=100.0))
    assert written == []
    lines.show(fleet(RunState.FAILED, service("store", ServiceState.FAILED, reason="it is gone"), started_at=100.0))
    assert written == ["   60.0s [0/1] store  failed: it is gone", "   60.0s [0/1] shop   fleet failed"]


def test_a_stop_says_nothing_of_gates() -> None:
    """While a fleet goes down its gates close; that is no news, and not a failure."""
    status = fleet(
        RunState.STOPPED, service("store", ServiceState.STOPPED), stages=(StageStatus(name="base", state=StageState.FAILED),)
    )
    written: list[str] = []
    Lines(written.append).show(status)
    assert "failed" not in "".join(written)
    assert "failed" not in shown(status)


def test_the_report_names_cause_victims_and_advice() -> None:
    """Root causes first: who, why, how often, who could not start, what to do, and the end of its log."""
    status = fleet(
        RunState.FAILED,
        report=(
            FailureReport(
                service="store",
                critical=True,
                reason="the disk is full",
                attempts=3,
                blocked=("web", "cart"),
                advice="make room",
                log=("one", "two", "three"),
            ),
            FailureReport(service="mail", critical=False, reason="no server"),
        ),
    )
    assert report(status, log_of=lambda name: (f"log of {name}",), lines=2).splitlines() == [
        "store (critical): the disk is full",
        "  tried 3 times",
        "  not started because of it: web, cart",
        "  what to do: make room",
        "  the end of its log:",
        "    two",
        "    three",
        "mail (not critical): no server",
        "  the end of its log:",
        "    log of mail",
    ]
    assert report(STARTING) == ""


def test_the_summary_says_how_it_ended() -> None:
    """One line with the end, how many are up, and the time."""
    ready, failed = service("store", ServiceState.READY), service("mail", ServiceState.FAILED)
    assert summary(fleet(RunState.UP, ready)) == "shop is up: 1 of 1 services in 1.0 s"
    assert summary(fleet(RunState.DEGRADED, ready, failed)).startswith("shop is up without some of its optional services: 1 of 2")
    assert summary(fleet(RunState.FAILED, failed)).startswith("shop did not come up: 0 of 1")
    assert summary(fleet(RunState.STOPPED, failed)).startswith("shop is stopped")
