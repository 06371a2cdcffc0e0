"""``fabric permissions``: what each service of a fleet has to be allowed on RabbitMQ."""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.options import FleetFile


def register(app: typer.Typer) -> None:
    app.command()(permissions)


def permissions(
    fleet: FleetFile,
    vhost: Annotated[str, typer.Option(help="The virtual host of the fleet.")] = "/",
    namespace: Annotated[str | None, typer.Option(help="Prefix of all names on the broker. Default: the file's.")] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="One more user, who calls and publishes and serves nothing; may be repeated.")
    ] = None,
    add_users: Annotated[
        bool, typer.Option("--add-users", help="Also add the users; each password is in a variable FABRIC_PASSWORD_NAME.")
    ] = False,
    delays: Annotated[
        bool, typer.Option(help="May publish events with a delay, whose queues all such users can read and delete.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="As definitions, for `rabbitmqctl import_definitions`.")] = False,
) -> None:
    """Print the least permissions on RabbitMQ that each service needs, as rabbitmqctl commands or as definitions.

    Every service is a user of its own, called as the service: that is the name that @rpc(callers=...) asks for. What a service
    subscribes to is read from its class. `fabric broker permissions` is the same.
    """
    from fabric.cli.output import write, write_json
    from fabric.coordination.contracts import contracts_of
    from fabric.coordination.fleet import load_fleet
    from fabric.coordination.permissions import commands, definitions, grants
    from fabric.transports.topology import Topology, check_name

    loaded = load_fleet(fleet)
    for name in (namespace, *(client or ())):
        try:
            check_name("name", name or loaded.namespace)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    topology = Topology(namespace or loaded.namespace)
    capabilities = {service.name: service.capabilities for service in loaded.definitions}
    found = grants(contracts_of(loaded), topology, capabilities=capabilities, clients=client or (), delays=delays)
    if json:
        write_json(definitions(found, topology, vhost))
    else:
        write("\n".join(commands(found, vhost, add_users=add_users)))
