"""Which view a run is shown in."""

from __future__ import annotations

import sys
from typing import Protocol

from fabric.cli.lines import Lines
from fabric.coordination.status import FleetStatus


class View(Protocol):
    """Where a run is shown."""

    def show(self, status: FleetStatus) -> None:
        """This is how it is now."""
        ...

    def note(self, text: str) -> None:
        """Something that is not part of a status."""
        ...

    def close(self) -> None:
        """Leave the last state on the screen. Idempotent."""
        ...


def new_view(*, as_json: bool) -> View:
    """A table that changes in place on a terminal, lines elsewhere; lines on standard error where a program reads."""
    if as_json:
        return Lines(_to_stderr)
    if not sys.stdout.isatty():
        return Lines(_to_stdout)
    from rich.console import Console

    from fabric.cli.board import Board

    console = Console()
    return Lines(_to_stdout) if console.is_dumb_terminal else Board(console)


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
