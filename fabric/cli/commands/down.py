"""``fabric down``: stop a fleet in reverse order."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace


def register(app: typer.Typer) -> None:
    app.command()(down)


def down(
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait until it is down.")] = 120.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Stop a running fleet: dependents before what they need, then the processes.

    A fleet that `fabric up` runs on this machine is stopped with its processes. Of any other, the coordinator stops the
    services, and whoever started the processes ends them.
    """
    from fabric.cli.output import write, write_json
    from fabric.cli.target import find_target

    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)
    if target.record is not None:
        from fabric.cli.record import stop_and_wait

        stop_and_wait(target.record, timeout=timeout)
        name = target.record.fleet
    else:
        from fabric.coordination.status import FleetStatus

        async def ask() -> FleetStatus:
            from fabric.cli.target import connected

            async with connected(target, timeout=min(timeout, 30.0)) as hub:
                return await hub.call("coordinator", "down", returns=FleetStatus, timeout=timeout)

        name = asyncio.run(ask()).fleet
    if json:
        write_json({"fleet": name, "state": "stopped"})
    else:
        write(f"{name} is down")
