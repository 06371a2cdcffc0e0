"""``fabric run``: one instance of one service in this process."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    target: Annotated[str, typer.Argument(metavar="MODULE:CLASS", help="Such as services.todo.prisma:PrismaService.")],
) -> None:
    """Run one instance of a service until SIGTERM or Ctrl-C.

    The broker is FABRIC_BROKER_URL. With FABRIC_MANAGED=1 it waits for the coordinator before it starts.
    """

    from fabric.coordination.host import host_from_environment

    if "" not in sys.path and os.getcwd() not in sys.path:  # as `python -m` does, also when started as `fabric`
        sys.path.insert(0, os.getcwd())
    host_from_environment(target)
