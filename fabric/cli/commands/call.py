"""``fabric call``: one call from the command line."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from typing import Annotated, Any

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace, Timeout


def register(app: typer.Typer) -> None:
    app.command()(call)


def call(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The service, or with --capability the capability.")],
    method: Annotated[str, typer.Argument(metavar="METHOD")],
    payload: Annotated[
        str, typer.Argument(metavar="JSON", help="The arguments as JSON; - reads them from standard input.")
    ] = "{}",
    capability: Annotated[
        bool, typer.Option("--capability", help="SERVICE names a capability: any service that offers it.")
    ] = False,
    instance: Annotated[str | None, typer.Option(help="Only this instance of the service.")] = None,
    timeout: Timeout = 30.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Call a method and print its answer as JSON.

    Exit code 1: the method failed; 3: nobody is there, it did not run; 4: no answer, it may have run.
    """
    from fabric.cli.output import write_json
    from fabric.cli.target import find_target

    if capability and instance:
        raise typer.BadParameter("an instance belongs to a service, not to a capability", param_hint="--instance")
    arguments = _parsed(sys.stdin.read() if payload == "-" else payload)
    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)

    async def run() -> Any:
        from fabric.cli.target import connected

        async with asyncio.timeout(timeout + 5.0), connected(target, timeout=timeout) as hub:
            if capability:
                return await hub.call_by_capability(service, method, arguments, timeout=timeout)
            return await hub.call(service, method, arguments, timeout=timeout, instance=instance)

    write_json(asyncio.run(run()))


def _parsed(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError as error:
        raise typer.BadParameter(
            f'not JSON: {error}; put it in single quotes, such as \'{{"text": "hi"}}\'', param_hint="JSON"
        ) from None
