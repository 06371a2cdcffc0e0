"""``fabric coordinator``: who leads the start of a fleet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.options import FleetFile


def register(app: typer.Typer) -> None:
    app.command()(coordinator)


def coordinator(
    fleet: FleetFile,
    autostart: Annotated[
        bool,
        typer.Option("--autostart", envvar="FABRIC_AUTOSTART", show_envvar=False, help="Begin at once, unasked: for containers."),
    ] = False,
    history: Annotated[Path | None, typer.Option(help="Keep the profiles of all runs in this file.")] = None,
    broker_url: Annotated[
        str | None, typer.Option(envvar="FABRIC_BROKER_URL", show_envvar=False, help="Default: FABRIC_BROKER_URL.")
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(envvar="FABRIC_NAMESPACE", show_envvar=False, help="Default: FABRIC_NAMESPACE, else the file's."),
    ] = None,
) -> None:
    """Run the coordinator of a fleet whose processes somebody else starts, until SIGTERM or Ctrl-C.

    `fabric up` has one of its own.
    """
    from pydantic import SecretStr

    from fabric.config import Settings
    from fabric.coordination.coordinator import Coordinator
    from fabric.coordination.fleet import load_fleet
    from fabric.coordination.host import host, lifeline_of_environment
    from fabric.coordination.status import UpOptions

    loaded = load_fleet(fleet)
    settings = Settings(namespace=namespace or loaded.namespace, broker_url=SecretStr(broker_url) if broker_url else None)
    asyncio.run(
        host(
            lambda: Coordinator(loaded, autostart=UpOptions() if autostart else None, history=history),
            settings=settings,
            managed=False,
            lifeline=lifeline_of_environment(),
        )
    )
