"""``fabric graph``: who needs whom."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from fabric.cli.options import FleetFile


class Format(enum.StrEnum):
    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.command()(graph)


def graph(
    fleet: FleetFile,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to draw it.")] = Format.TEXT,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Draw the services of a fleet file, their dependencies and stages."""
    from fabric.cli import graphs
    from fabric.cli.output import write, write_json
    from fabric.coordination.fleet import load_fleet

    loaded = load_fleet(fleet)
    match Format.JSON if json else format:
        case Format.JSON:
            write_json(graphs.as_data(loaded))
        case Format.MERMAID:
            write(graphs.as_mermaid(loaded))
        case Format.DOT:
            write(graphs.as_dot(loaded))
        case Format.TEXT:
            write(graphs.as_text(loaded))
