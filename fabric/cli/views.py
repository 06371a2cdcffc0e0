"""Which view a run is shown in."""

from __future__ import annotations

import sys
from typing import Protocol

from rich.console import Console

from fabric.cli.board import Board
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


class Views:
    """The views of one run, in turn: of its start, of the time it stays up, of its stop.

    On a terminal the first and the last are tables that change in place, and between them what changes is told in lines.
    Elsewhere all are one series of lines; on standard error where a program reads the output.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines = Lines(_to_stderr if as_json else _to_stdout)
        self._board: Board | None = None
        self._turn = 0

    def __call__(self) -> View:
        self._turn += 1
        if self._board is not None and self._board.last is not None:
            self._lines.know(self._board.last)
        self._board = None if self._turn == 2 else _board(self._as_json)
        return self._board or self._lines


def new_view(*, as_json: bool) -> View:
    """A single view."""
    return Views(as_json=as_json)()


def _board(as_json: bool) -> Board | None:
    if as_json or not sys.stdout.isatty():
        return None
    console = Console()
    return None if console.is_dumb_terminal else Board(console)


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
