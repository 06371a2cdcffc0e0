"""``fabric profile``: what past starts took, and why."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fabric.cli.options import Json

if TYPE_CHECKING:  # so that `fabric --help` does not pay for it
    from fabric.startup.profile import StartupProfile

profiles = typer.Typer(name="profile", help="What past starts took, and why.", no_args_is_help=True)

FleetName = Annotated[str | None, typer.Option("--fleet", help="The fleet, where several were started from this directory.")]
Run = Annotated[str, typer.Argument(metavar="[RUN]", help="last, last~1 (the one before it), the id of a run, or its beginning.")]
From = Annotated[Path | None, typer.Option("--from", help="A file that `fabric up --profile-out` wrote, in place of RUN.")]


def register(app: typer.Typer) -> None:
    app.add_typer(profiles)


@profiles.command()
def blame(run: Run = "last", from_: From = None, fleet: FleetName = None, json: Json = False) -> None:
    """Which service took how long itself, apart from what it waited."""
    from fabric.cli.output import write, write_json
    from fabric.cli.profile_text import blame_text

    _, profile = _chosen(run, from_, fleet)
    if json:
        times = ("own", "retry", "waiting", "gate", "slot", "slack", "begun", "ready")
        services = sorted(profile.services, key=lambda service: (-(service.own + service.retry), service.name))
        write_json([{"service": s.name, "state": s.state, **{name: getattr(s, name) for name in times}} for s in services])
    else:
        write(blame_text(profile))


@profiles.command("critical-chain")
def critical_chain(run: Run = "last", from_: From = None, fleet: FleetName = None, json: Json = False) -> None:
    """What decided how long a start took: the parts add up to the whole."""
    from dataclasses import asdict

    from fabric.cli.output import write, write_json
    from fabric.cli.profile_text import chain_text

    _, profile = _chosen(run, from_, fleet)
    if json:
        parts = [{**asdict(part), "seconds": part.seconds} for part in profile.critical_path]
        write_json({"makespan": profile.makespan, "critical_path": parts})
    else:
        write(chain_text(profile))


@profiles.command()
def plot(
    run: Run = "last",
    from_: From = None,
    fleet: FleetName = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the SVG here. Default: standard output.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Draw it in the terminal instead.")] = False,
) -> None:
    """Draw a start as bars on one time axis, as SVG."""
    from fabric.cli.gantt import gantt, marks_for
    from fabric.cli.output import write
    from fabric.cli.svg import as_svg

    name, profile = _chosen(run, from_, fleet)
    if text:
        width = shutil.get_terminal_size((100, 24)).columns
        write(gantt(profile, width=width, marks=marks_for(sys.stdout.encoding), most=len(profile.services)))
    elif out is not None:
        out.write_text(as_svg(profile, fleet=name), encoding="utf-8")
        write(f"written to {out}")
    else:
        sys.stdout.write(as_svg(profile, fleet=name))


@profiles.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="[BEFORE]", help="As RUN of the others, or a profile's file.")] = "last~1",
    after: Annotated[str, typer.Argument(metavar="[AFTER]")] = "last",
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """What changed between two starts."""
    from dataclasses import asdict

    from fabric.cli.output import write, write_json
    from fabric.cli.trend import compare as compared
    from fabric.cli.trend import comparison_text

    found = compared(*(_chosen(run, Path(run) if Path(run).is_file() else None, fleet)[1] for run in (before, after)))
    if json:
        write_json(asdict(found))
    else:
        write(comparison_text(found))


@profiles.command()
def trend(
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=500, help="The latest so many starts.")] = 20,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 when the last start was slower than usual.")] = False,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """How the times developed, and what became slower."""
    from dataclasses import asdict

    from fabric.cli.exits import ExitCode
    from fabric.cli.output import write, write_json
    from fabric.cli.runs import recorded_runs
    from fabric.cli.trend import courses, trend_text

    with recorded_runs(fleet, Path.cwd()) as runs:
        latest = runs.latest(count)
        slower = runs.history.regressions(runs.fleet, latest[0], count=count)
    oldest_first = latest[::-1]
    if json:
        found = [{**asdict(course), "usual": course.usual, "spread": course.spread} for course in courses(oldest_first)]
        write_json({"runs": [profile.run for profile in oldest_first], "courses": found, "slower": [asdict(s) for s in slower]})
    else:
        write(trend_text(oldest_first, slower))
    raise typer.Exit(ExitCode.FAILED if strict and slower else ExitCode.OK)


def _chosen(run: str, path: Path | None, fleet: str | None) -> tuple[str, StartupProfile]:
    """The name of the fleet, as far as it is known, and the profile."""
    from fabric.cli.runs import profile_in, recorded_runs

    if path is not None:
        return fleet or path.stem, profile_in(path)
    with recorded_runs(fleet, Path.cwd()) as runs:
        return runs.fleet, runs.chosen(run)
