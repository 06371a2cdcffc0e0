"""``fabric explain``: why a service is not up, or why it took that long."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace, Timeout


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    service: Annotated[str, typer.Argument(metavar="NAME", help="A service of the fleet.")],
    timeout: Timeout = 5.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Tell the chain of reasons why a service is not up, or why it took that long: one line a reason, indented by cause.

    Exit code 3: there is no coordinator; 1: the service is not in the fleet, or there was no run yet.
    """
    from fabric.cli.output import write, write_json
    from fabric.cli.target import find_target

    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)

    async def ask() -> str:
        from fabric.cli.target import connected

        async with connected(target, timeout=timeout) as hub:
            return await hub.call("coordinator", "explain", {"service": service}, returns=str, timeout=timeout)

    found = asyncio.run(ask())
    if json:
        write_json({"service": service, "lines": found.splitlines()})
    else:
        write(found)
