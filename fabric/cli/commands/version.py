"""``fabric version``."""

from __future__ import annotations

import platform

import typer

from fabric import __version__
from fabric.cli.options import Json


def register(app: typer.Typer) -> None:
    app.command()(version)


def version(json: Json = False) -> None:
    """Say which Fabric and which Python this is."""
    from fabric.cli.output import write, write_json

    facts = {"fabric": __version__, "python": platform.python_version(), "platform": platform.platform()}
    if json:
        write_json(facts)
    else:
        write(f"fabric {__version__}, Python {facts['python']}, {facts['platform']}")
