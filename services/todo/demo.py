"""``make demo``: the reference fleet comes up, is visited, loses a gateway, and stops.

``python -m services.todo.demo`` needs no terminal. The broker is ``FABRIC_BROKER_URL``, or an embedded one. Exit code 0 if
everything held, 1 if something did not, 130 after Ctrl-C. Nothing of it runs afterwards in any case.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from fabric import Hub, Settings
from fabric.cli import exits
from fabric.cli.bring_up import Stay, UpRequest, bring_up
from fabric.cli.exits import ExitCode
from fabric.cli.local_fleet import LocalFleet
from fabric.cli.outcome import profile_of, report, summary
from fabric.cli.profile_text import profile_text
from fabric.cli.target import Target
from fabric.cli.views import View, Views
from fabric.coordination.fleet import Fleet, load_fleet
from fabric.coordination.status import FleetStatus, UpOptions
from fabric.errors import FabricError
from services.todo.tour import Tour, Visitor

FLEET = Path(__file__).with_name("fleet.yaml")
NAME = "todo-demo"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def demo_fleet() -> Iterator[Fleet]:
    """The reference fleet with a second gateway, and with a name and a data directory of its own, so that it stands beside one
    that is already in use."""
    with tempfile.TemporaryDirectory(prefix="fabric-demo-") as directory:
        os.environ["FABRIC_DATA_DIR"] = f"{directory}/data"
        described = yaml.safe_load(FLEET.read_text(encoding="utf-8"))
        described["name"] = NAME
        described["services"]["api-gateway"]["instances"] = 2
        path = Path(directory) / "fleet.yaml"
        path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
        yield load_fleet(path)


class Demo:
    """One run: ``bring_up`` has the fleet in its hands; when it is up the tour goes, and then asks for the end."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._up: tuple[Target, FleetStatus] | None = None
        self._tour: asyncio.Task[None] | None = None
        self._views = Views(as_json=False)

    async def run(self) -> ExitCode:
        request = UpRequest(
            fleet=self._fleet,
            options=UpOptions(slots=self._fleet.slots),
            broker_url=os.environ.get("FABRIC_BROKER_URL"),
            namespace=None,
            root=Path.cwd(),
            stay=Stay.IF_UP,
            view=self._view,
            concluded=self._concluded,
        )
        code = await bring_up(request)
        if code is not ExitCode.OK or self._tour is None:
            return code
        await asyncio.wait({self._tour})
        if self._tour.cancelled():
            return ExitCode.INTERRUPTED
        return ExitCode.FAILED if self._tour.exception() else ExitCode.OK

    def _view(self) -> View:
        """Asked for at the start, when the fleet is up, and at the end, whoever wanted it: then the tour is over in any case."""
        if self._tour is not None:
            self._tour.cancel()
        elif self._up is not None:
            self._tour = asyncio.create_task(self._visit(*self._up), name="tour")
            self._tour.add_done_callback(_tour_ended)
        return self._views()

    def _concluded(self, status: FleetStatus, local: LocalFleet) -> None:
        if failures := report(status, log_of=local.log_of):
            say(failures)
        say(summary(status))
        if status.state.is_usable:
            self._up = local.target, status

    async def _visit(self, target: Target, status: FleetStatus) -> None:
        settings = Settings(namespace=target.namespace)
        async with Hub.connect(Visitor.name, url=target.broker_url, settings=settings) as hub:
            visitor = Visitor()
            served = await hub.serve(visitor)
            try:
                await served.open_doors()
                await Tour(hub, visitor, say).go()
            finally:
                await served.drain()
                await served.aclose()
        if profile := profile_of(status):
            say(f"\n{profile_text(profile)}\n")


def _tour_ended(tour: asyncio.Task[None]) -> None:
    if not tour.cancelled():
        if error := tour.exception():
            say(f"The demo failed: {type(error).__name__}: {error}")
        os.kill(os.getpid(), signal.SIGTERM)  # to `bring_up`, as Ctrl-C at `fabric up`: stop in reverse order


def main() -> int:
    try:
        with demo_fleet() as fleet:
            return int(asyncio.run(Demo(fleet).run()))
    except FabricError as error:
        return int(exits.report(error))


if __name__ == "__main__":
    sys.exit(main())
