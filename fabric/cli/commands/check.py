"""``fabric check``: what is wrong or risky in a fleet file, before anything is started."""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.options import FleetFile, Json


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    fleet: FleetFile,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 when anything is risky.")] = False,
    json: Json = False,
) -> None:
    """Check a fleet file: what is wrong is an error (exit code 2), what is risky is printed."""
    from dataclasses import asdict

    from fabric.cli.exits import ExitCode
    from fabric.cli.findings import findings
    from fabric.cli.output import write, write_json
    from fabric.coordination.fleet import load_fleet

    loaded = load_fleet(fleet)
    found = findings(loaded)
    if json:
        write_json({"fleet": loaded.name, "services": len(loaded.graph), "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            write(f"{finding.source}: {finding.message} [{finding.rule}]")
        write(f"{loaded.name}: {len(loaded.graph)} services, {len(loaded.stages)} stages, {len(found)} findings")
    raise typer.Exit(ExitCode.FAILED if strict and found else ExitCode.OK)
