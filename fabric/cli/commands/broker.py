"""``fabric broker``: the embedded broker on a Unix socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.commands.permissions import permissions


def register(app: typer.Typer) -> None:
    group = typer.Typer()
    group.callback(invoke_without_command=True)(broker)
    group.command()(permissions)
    app.add_typer(group, name="broker")


def broker(
    context: typer.Context,
    socket: Annotated[Path, typer.Option(help="Where it listens; at most about 100 characters.")] = Path(".fabric/broker.sock"),
) -> None:
    """Run the embedded broker until SIGTERM or Ctrl-C.

    It serves one machine and keeps nothing on disk; for more, use RabbitMQ. Its URL is unix:// and the path of the socket.
    """

    if context.invoked_subcommand is not None:
        return

    async def run() -> None:
        from fabric.cli.lifeline import until_told
        from fabric.transports.embedded_server import serve

        path = socket.absolute()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with until_told() as told:
            serving = asyncio.ensure_future(serve(path))
            ending = asyncio.ensure_future(told.wait())
            try:
                await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
            finally:
                serving.cancel()
                ending.cancel()
                await asyncio.gather(serving, ending, return_exceptions=True)

    asyncio.run(run())
