"""``fabric restart``: services anew, without an interruption if that is wanted."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace

if TYPE_CHECKING:  # so that `fabric --help` does not pay for it
    from fabric.coordination.status import FleetStatus, RestartOptions, RollStatus
    from fabric.hub import Hub


def register(app: typer.Typer) -> None:
    app.command()(restart)


def restart(
    services: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE...]", help="Default: all that are up.")] = None,
    rolling: Annotated[bool, typer.Option("--rolling", help="One instance after the other, with enough of them ready.")] = False,
    surge: Annotated[bool, typer.Option("--surge", help="Start one instance more before the first is stopped.")] = False,
    min_available: Annotated[
        int | None, typer.Option(min=0, help="Instances of each that stay ready. Default: all with --surge, else all but one.")
    ] = None,
    stable_for: Annotated[
        float | None, typer.Option(min=0, help="Seconds that a new instance must be ready before the next goes. Default: 10.")
    ] = None,
    revert: Annotated[bool, typer.Option("--revert/--no-revert", help="Go back to what ran before when a new one fails.")] = True,
    pause: Annotated[bool, typer.Option("--pause", help="Of the one under way: begin no other step.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Of the one under way: go on.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Of the one under way: end it, going back unless --no-revert.")] = False,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Restart services with what their fleet file says now, in the order of their dependencies.

    With --rolling no call need fail; without it, availability is not minded. Exit code 1: it went back, or was ended. Ctrl-C
    only stops watching it.
    """
    from fabric.cli.exits import ExitCode
    from fabric.cli.output import write, write_json
    from fabric.cli.target import find_target
    from fabric.coordination.status import RestartOptions

    if sum([pause, resume, abort, bool(services) or rolling or surge]) > 1:
        raise typer.BadParameter("--pause, --resume and --abort stand alone: they are about the restart under way")
    if surge and not rolling:
        raise typer.BadParameter("goes with --rolling", param_hint="--surge")
    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)
    options = RestartOptions(
        id=f"restart-{secrets.token_hex(4)}",
        services=tuple(services or ()),
        surge=surge,
        min_available=min_available if rolling else 0,
        stable_for=(10.0 if rolling else 0.0) if stable_for is None else stable_for,
        revert=revert,
    )

    async def run() -> RollStatus | None:
        from fabric.cli.target import connected
        from fabric.coordination.status import FleetStatus

        async with connected(target, timeout=30.0) as hub:
            if pause or resume:
                method = "pause_restart" if pause else "resume_restart"
                return (await hub.call("coordinator", method, returns=FleetStatus, timeout=10.0)).roll
            if abort:
                found = await hub.call("coordinator", "abort_restart", {"revert": revert}, returns=FleetStatus, timeout=10.0)
                return await _follow(hub, found, found.roll.id) if found.roll is not None else None
            return await _begin(hub, options)

    found = asyncio.run(run())
    if json:
        write_json(None if found is None else found.model_dump(mode="json"))
    elif found is None:
        write("there was no restart yet")
    elif found.over or pause or resume:
        write(_conclusion(found))
    else:
        write(f"it goes on: {_conclusion(found)}; `fabric restart --abort` ends it")
    well = found is not None and (found.state == "done" or pause or resume or (abort and found.state in ("reverted", "aborted")))
    raise typer.Exit(ExitCode.OK if well else ExitCode.FAILED if found is None or found.over else ExitCode.INTERRUPTED)


async def _begin(hub: Hub, options: RestartOptions) -> RollStatus | None:
    from fabric.coordination.status import FleetStatus

    found = await hub.call("coordinator", "restart", options, returns=FleetStatus, timeout=60.0)
    return await _follow(hub, found, options.id)


async def _follow(hub: Hub, first: FleetStatus, id: str) -> RollStatus | None:
    """Says what is being done until it is over, or until Ctrl-C."""
    from fabric.cli.progress import FleetWatch
    from fabric.cli.told import Told

    roll, said = first.roll, ""
    async with Told() as told, FleetWatch(hub) as watch:
        watch.put(first)
        while (status := await told.unless(watch.next())) is not None:
            if status.roll is None or status.roll.id != id:
                continue
            roll = status.roll
            line = f"{roll.state}: {roll.doing}" if roll.doing else roll.state
            if line != said:
                sys.stderr.write(line + "\n")
            said = line
            if roll.over:
                break
    return roll


def _conclusion(roll: RollStatus) -> str:
    count = len(roll.replaced)
    what = f"{count} instance{'' if count == 1 else 's'} of {', '.join(roll.services)} replaced"
    because = f": {roll.reason}" if roll.reason else ""
    return f"{roll.state}, {what}{because}"
