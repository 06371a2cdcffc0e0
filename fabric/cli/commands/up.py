"""``fabric up``: a whole fleet, as processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fabric.cli.options import FleetFile, Json


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    fleet: FleetFile,
    sequential: Annotated[bool, typer.Option("--sequential", help="Start one service after the other.")] = False,
    slots: Annotated[int | None, typer.Option(min=1, help="Services that may be starting at once. Default: the file's.")] = None,
    skip_optional: Annotated[bool, typer.Option("--skip-optional", help="Leave out what no critical service needs.")] = False,
    abort_on_failure: Annotated[
        bool, typer.Option("--abort-on-failure", help="Start nothing more after the first critical failure.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when the fleet is up; `fabric down` stops it.")] = False,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--exit-when-up", help="Stay in any case, or stop it in any case. Default: stay if it came up."),
    ] = None,
    fork_server: Annotated[
        bool | None,
        typer.Option(
            "--fork-server/--no-fork-server",
            help="Make processes by one that has Fabric loaded, or start each afresh. Default: the file's, else make.",
        ),
    ] = None,
    profile_out: Annotated[Path | None, typer.Option(help="Write the profile of the start here, as JSON.")] = None,
    broker_url: Annotated[
        str | None,
        typer.Option(
            envvar="FABRIC_BROKER_URL", show_envvar=False, help="Default: FABRIC_BROKER_URL, else an embedded broker of its own."
        ),
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(envvar="FABRIC_NAMESPACE", show_envvar=False, help="Default: FABRIC_NAMESPACE, else the file's."),
    ] = None,
    json: Json = False,
) -> None:
    """Bring a fleet up, show it, and stop it in reverse order on Ctrl-C.

    Exit code 1: a critical service did not come up; the report says why.
    """
    import asyncio

    from fabric.cli.bring_up import Stay, UpRequest, bring_up
    from fabric.cli.conclusion import Conclusion
    from fabric.cli.detach import into_background
    from fabric.cli.views import Views
    from fabric.coordination.fleet import load_fleet
    from fabric.coordination.status import UpOptions

    loaded = load_fleet(fleet)
    stay = {None: Stay.IF_UP, True: Stay.ALWAYS, False: Stay.NEVER}[keep]
    announce = into_background(Path.cwd() / ".fabric" / loaded.name / "up.log") if detach else None
    request = UpRequest(
        fleet=loaded,
        options=UpOptions(
            parallel=not sequential,
            slots=slots or loaded.slots,
            skip_optional=skip_optional,
            abort_on_failure=abort_on_failure,
        ),
        broker_url=broker_url,
        namespace=namespace,
        root=Path.cwd(),
        stay=stay,
        view=Views(as_json=json),
        concluded=Conclusion(stay=stay, as_json=json, profile_out=profile_out, announce=announce),
        fork_server=fork_server,
    )
    raise typer.Exit(asyncio.run(bring_up(request)))
