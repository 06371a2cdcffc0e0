"""``fabric doctor``: is the broker fit for a fleet, and if not, why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace, Timeout

if TYPE_CHECKING:  # so that `fabric --help` does not pay for it
    from fabric.transports.base import QueueSpec
    from fabric.transports.diagnosis import Finding


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    fleet_file: Annotated[
        str | None, typer.Argument(metavar="[FLEET]", help="A fleet file, whose queues are compared with those on the broker.")
    ] = None,
    service: Annotated[
        str, typer.Option(help="The service of FLEET whose user is in the URL: only what it needs is tried. Default: everything.")
    ] = "",
    timeout: Timeout = 10.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Examine the broker: version, permissions, limits, alarms, existing queues, and what it will refuse.

    Tries what a fleet needs under names of its own, which it removes. --timeout is for each question to the broker.

    Exit code 0: nothing failed; 1: something did, and what to do about it; 3: the broker is not reached.
    """
    from dataclasses import asdict

    from fabric.cli.exits import ExitCode
    from fabric.cli.output import write, write_json
    from fabric.cli.target import find_target
    from fabric.config import Settings
    from fabric.coordination.fleet import load_fleet
    from fabric.errors import UnknownName
    from fabric.transports.diagnosis import Level, worst
    from fabric.transports.examine import examine

    if service and fleet_file is None:
        raise typer.BadParameter("what a service needs is read from its fleet file: name that too", param_hint="--service")
    loaded = load_fleet(fleet_file) if fleet_file is not None else None
    target = find_target(broker_url=broker_url, namespace=namespace or (loaded.namespace if loaded else None), fleet=fleet)
    settings = Settings(namespace=target.namespace, connect_timeout=timeout, instance="")
    patterns: tuple[str, ...] | None = None
    broadcasts = True
    queues: tuple[QueueSpec, ...] = ()
    if loaded is not None:
        from fabric.coordination.contracts import contracts_of, event_queues
        from fabric.transports.amqp_facts import COORDINATOR
        from fabric.transports.topology import Topology

        contracts = contracts_of(loaded)
        topology = Topology(target.namespace)
        queues = tuple(queue for contract in contracts.values() if contract for queue in event_queues(contract, topology))
        if service and service not in (*contracts, COORDINATOR):
            raise UnknownName("service", service, used_by="--service", known=list(contracts))
        if service == COORDINATOR:
            patterns = ()
        elif contract := contracts.get(service):
            patterns = tuple(key for queue in event_queues(contract, topology) for key in queue.keys)
            broadcasts = bool(contract.broadcasts)

    found = asyncio.run(
        examine(target.broker_url, settings, service=service, patterns=patterns, broadcasts=broadcasts, queues=queues)
    )
    level = worst(found)
    if json:
        write_json({"level": level, "findings": [asdict(finding) for finding in found]})
    else:
        write("\n".join(line for finding in found for line in _lines(finding)))
    if any(finding.check == "reach" for finding in found):
        raise typer.Exit(ExitCode.UNREACHABLE)
    raise typer.Exit(ExitCode.FAILED if level is Level.FAIL else ExitCode.OK)


def _lines(finding: Finding) -> list[str]:
    from fabric.cli.letters import printable

    first = f"{finding.level:<5} {finding.check:<13} {printable(finding.message)}"
    return [first, f"{'':<19} → {printable(finding.advice)}"] if finding.advice else [first]
