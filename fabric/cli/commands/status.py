"""``fabric status``: how the fleet is."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace, Timeout


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it until Ctrl-C.")] = False,
    timeout: Timeout = 5.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Show stages, services, instances and what they wait for.

    Exit code 0: every critical service is up; 1: not; 3: there is no coordinator.
    """
    from fabric.cli.exits import ExitCode
    from fabric.cli.output import write_json
    from fabric.cli.target import find_target
    from fabric.coordination.status import FleetStatus

    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)

    async def ask() -> FleetStatus:
        from fabric.cli.target import connected

        async with connected(target, timeout=timeout) as hub:
            found = await hub.call("coordinator", "status", returns=FleetStatus, timeout=timeout)
            if watch:
                from fabric.cli.progress import FleetWatch
                from fabric.cli.told import Told
                from fabric.cli.views import new_view

                view = new_view(as_json=json)
                async with Told() as told, FleetWatch(hub) as changes:
                    changes.put(found)
                    while (change := await told.unless(changes.next())) is not None:
                        found = change
                        view.show(found)
                view.close()
            return found

    found = asyncio.run(ask())
    if json:
        write_json(found.model_dump(mode="json"))
    elif not watch:
        from rich.console import Console

        from fabric.cli.board import fleet_table
        from fabric.cli.outcome import report

        console = Console(highlight=False)
        console.print(fleet_table(found, now=time.time()))
        if failures := report(found, lines=5):
            console.print(failures, markup=False)
    raise typer.Exit(ExitCode.OK if found.state.is_usable else ExitCode.FAILED)
