"""``fabric optimize``: better stages and slots, from what past starts took."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.options import FleetFile, Json


def register(app: typer.Typer) -> None:
    app.command()(optimize)


def optimize(
    fleet: FleetFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: beside FLEET, as NAME.optimized.yaml.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=50, help="Look at the latest so many starts.")] = 20,
    from_: Annotated[
        list[Path] | None, typer.Option("--from", help="A file of --profile-out, in place of recorded starts; may be repeated.")
    ] = None,
    cores: Annotated[
        float | None,
        typer.Option(min=0.1, help="Cores that all starts share. Default: learned from the starts."),
    ] = None,
    json: Json = False,
) -> None:
    """Find stages and slots with which the fleet starts sooner, and write them into a new fleet file.

    Every change was simulated over the recorded times. After a start with the new file `fabric up` tells what was predicted and
    what was achieved.
    """
    from fabric.cli.advice_text import advice_text
    from fabric.cli.output import write, write_json
    from fabric.cli.runs import profile_in, recorded_runs
    from fabric.coordination.fleet import load_fleet
    from fabric.coordination.rewrite import with_stages
    from fabric.startup.codec import dump
    from fabric.startup.optimizer import optimize_startup

    loaded = load_fleet(fleet)
    if from_:
        profiles = [profile_in(path) for path in from_]
    else:
        with recorded_runs(loaded.name, Path.cwd()) as runs:
            profiles = list(runs.latest(count)[::-1])
    advice = optimize_startup(loaded.graph, profiles, cores=cores)
    path = out or Path(fleet).with_suffix(".optimized.yaml")
    if advice.proposals:
        text = Path(fleet).read_text(encoding="utf-8")
        path.write_text(with_stages(text, path, advice.optimized_stages, advice.slots, advice.estimate), encoding="utf-8")
    if json:
        write_json({"runs": len(profiles), "written": str(path) if advice.proposals else None, "advice": dump(advice)})
        return
    write(advice_text(advice, runs=len(profiles)))
    if advice.proposals:
        write(f"\nwritten to {path}; `fabric up {path}` starts with it and tells what it brought")
