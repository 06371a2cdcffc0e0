"""Options that several commands have, so that they are called and mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

FleetFile = Annotated[str, typer.Argument(metavar="FLEET", help="The fleet file, such as fleet.yaml.")]
BrokerUrl = Annotated[
    str | None,
    typer.Option(help="amqp://, amqps:// or unix:///path. Default: FABRIC_BROKER_URL, else the fleet that runs here."),
]
Namespace = Annotated[str | None, typer.Option(help="Prefix of all names on the broker. Default: the running fleet's.")]
FleetName = Annotated[str | None, typer.Option("--fleet", help="Which of the fleets that run here, by name.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to standard output, and errors as JSON to standard error.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds for all of it.")]
