"""``fabric contract``: what services offer, what a change of it breaks, and the same for other tools."""

from __future__ import annotations

import asyncio
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace, Timeout

if TYPE_CHECKING:  # so that `fabric --help` does not pay for it
    from fabric.cli.target import Target

contracts = typer.Typer(
    name="contract",
    help="Show what services offer, find what a change breaks, write it as AsyncAPI.",
    no_args_is_help=True,
)

_RUNNING = "@running"
_LISTEN = 2.5
"""Seconds in which whoever runs answers, or announces itself anyway."""
_HELP = (
    "A fleet file (.yaml), what `show` has written (.json), module:Class, the name of a service that runs, or @running:"
    " all that run."
)
_SOURCE = typer.Argument(metavar="CONTRACT", help=_HELP)


def register(app: typer.Typer) -> None:
    app.add_typer(contracts)


@contracts.command()
def show(
    contract: Annotated[str, _SOURCE],
    timeout: Timeout = 30.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
) -> None:
    """Print a contract as JSON. Keep it, to compare the next version with."""
    from fabric.cli.output import write
    from fabric.contracts.description import FORMAT

    found = _read(contract, timeout, broker_url, namespace, fleet)
    one = next(iter(found.values())) if len(found) == 1 else {"fabric": FORMAT, "services": found}
    write(json_module.dumps(one, indent=2, ensure_ascii=False))


@contracts.command()
def check(
    old: Annotated[str, typer.Argument(metavar="OLD", help="What callers were built against: as for `show`.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What is to be deployed: as for `show`.")],
    timeout: Timeout = 30.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Say what of NEW breaks callers, publishers and readers of OLD. Exit code 1 when something does."""
    from dataclasses import asdict

    from fabric.cli.exits import ExitCode
    from fabric.cli.output import write, write_json
    from fabric.contracts.callers import hits, knows_callers
    from fabric.contracts.compatibility import breaks

    before = _read(old, timeout, broker_url, namespace, fleet)
    after = _read(new, timeout, broker_url, namespace, fleet)
    # One service against a fleet is that service's new version, not the end of all others.
    compared = {name: each for name, each in before.items() if name in after} if len(after) == 1 else before
    found = breaks(compared, after)
    hit = [hits(each, before, after) for each in found]
    if json:
        breaks_ = [{**asdict(each), "callers": [asdict(one) for one in some]} for each, some in zip(found, hit, strict=True)]
        write_json({"services": len(compared), "breaks": breaks_})
    else:
        nobody = ["no known caller needs what changed"] if knows_callers(before) else []
        for each, some in zip(found, hit, strict=True):
            write(str(each))
            for one in some or nobody:
                write(f"  {one}")
        write(f"{len(compared)} services compared, {len(found)} breaks")
    raise typer.Exit(ExitCode.FAILED if found else ExitCode.OK)


@contracts.command()
def asyncapi(
    contract: Annotated[str, _SOURCE],
    timeout: Timeout = 30.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Annotated[bool, typer.Option("--json", help="JSON in place of YAML.")] = False,
) -> None:
    """Print an AsyncAPI 3.0 document."""
    from fabric.cli.output import write
    from fabric.contracts.asyncapi import asyncapi as made
    from fabric.transports.topology import Topology, check_name

    found = _read(contract, timeout, broker_url, namespace, fleet)
    title, prefix = None, namespace or "fabric"
    if _is_fleet(contract):
        from fabric.coordination.fleet import load_fleet

        loaded = load_fleet(contract)
        title, prefix = loaded.name, namespace or loaded.namespace
    try:
        check_name("namespace", prefix)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--namespace") from None
    document = made(found.values(), Topology(prefix), title=title)
    if json:
        write(json_module.dumps(document, indent=2, ensure_ascii=False))
    else:
        import yaml

        # Through JSON, so that nothing is an alias of something else.
        plain = json_module.loads(json_module.dumps(document))
        write(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=130).rstrip("\n"))


def _is_fleet(source: str) -> bool:
    return Path(source).suffix in (".yaml", ".yml")


def _read(
    source: str, timeout: float, broker_url: str | None, namespace: str | None, fleet: str | None
) -> dict[str, dict[str, Any]]:
    """Descriptions by service."""
    from fabric.contracts.description import describe, read_descriptions
    from fabric.errors import ConfigurationError

    if _is_fleet(source):
        from fabric.coordination.contracts import contracts_of
        from fabric.coordination.fleet import load_fleet

        known = contracts_of(load_fleet(source))
        return {name: describe(contract) for name, contract in known.items() if contract is not None}
    if Path(source).suffix == ".json":
        try:
            return read_descriptions(json_module.loads(Path(source).read_text()), source)
        except OSError as error:
            raise ConfigurationError(f"can't be read: {error.strerror}", source=source) from error
        except ValueError as error:
            raise ConfigurationError(f"not JSON: {error}", source=source) from error
    if ":" in source:
        from fabric.contract import contract_of
        from fabric.coordination.host import load_service

        described = describe(contract_of(load_service(source)))
        return {described["service"]: described}
    from fabric.cli.target import find_target

    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)
    return read_descriptions(asyncio.run(_asked(source, target, timeout)), source)


async def _asked(service: str, target: Target, timeout: float) -> Any:
    from fabric.cli.target import connected
    from fabric.contracts.description import METHOD
    from fabric.contracts.usage import merged
    from fabric.coordination.fleet import COORDINATOR
    from fabric.coordination.processes import SUPERVISOR

    async with asyncio.timeout(timeout + 5.0), connected(target, timeout=timeout) as hub:
        if service != _RUNNING:
            return await hub.call(service, METHOD, None, timeout=timeout, idempotent=True)
        await hub.discover_all()
        await asyncio.sleep(min(_LISTEN, timeout))
        asked = [
            hub.call(instance.service, METHOD, None, timeout=timeout, idempotent=True, instance=instance.id)
            for instance in hub.registry.instances()
            if instance.takes_calls and instance.service not in (COORDINATOR, SUPERVISOR)
        ]
        return merged(await asyncio.gather(*asked))
