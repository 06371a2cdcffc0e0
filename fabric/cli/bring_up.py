"""``fabric up`` from the first process to the last: start, watch, conclude, stay, stop."""

from __future__ import annotations

import asyncio
import enum
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fabric.cli.ask import ask_to_start
from fabric.cli.exits import ExitCode
from fabric.cli.fork_server import EXIT_UNSEEN
from fabric.cli.launch import BROKER, COORDINATOR
from fabric.cli.local_fleet import LocalFleet, local_fleet
from fabric.cli.process import ProcessEnd
from fabric.cli.progress import FleetWatch
from fabric.cli.supervision import supervision
from fabric.cli.target import connected
from fabric.cli.told import Told
from fabric.cli.views import View
from fabric.coordination.fleet import Fleet
from fabric.coordination.processes import SUPERVISOR
from fabric.coordination.status import FleetStatus, ProcessExit, RunState, UpOptions
from fabric.errors import FabricError
from fabric.hub import Hub
from fabric.tasks import Tasks

_REACH_LIMIT = 30.0
_DOWN_LIMIT = 300.0


class Stay(enum.Enum):
    """Whether the fleet keeps running when its start has ended. ``IF_UP``: not when it failed."""

    IF_UP = "if up"
    ALWAYS = "always"
    NEVER = "never"

    def after(self, state: RunState) -> bool:
        return self is Stay.ALWAYS or (self is Stay.IF_UP and state.is_usable)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRequest:
    """What ``fabric up`` was asked for.

    Attributes:
        root: where ``.fabric`` is and the processes are started.
        view: makes a view for the start and one for the stop.
        concluded: called once, when the start has ended; the views are closed then.
        fork_server: whether processes are made by one that has Fabric loaded; None: as the fleet file says.
    """

    fleet: Fleet
    options: UpOptions
    broker_url: str | None = field(repr=False)
    namespace: str | None
    root: Path
    stay: Stay
    view: Callable[[], View]
    concluded: Callable[[FleetStatus, LocalFleet], None]
    fork_server: bool | None = None


async def bring_up(request: UpRequest) -> ExitCode:
    """Bring a fleet up, keep it, and stop it. Nothing of it runs afterwards.

    Raises:
        FabricError: it could not even be begun.
    """
    news: asyncio.Queue[ProcessEnd | str] = asyncio.Queue()
    async with (
        Told() as told,
        local_fleet(
            request.fleet,
            broker_url=request.broker_url,
            namespace=request.namespace,
            root=request.root,
            on_end=news.put_nowait,
            on_note=news.put_nowait,
            fork_server=request.fleet.fork_server if request.fork_server is None else request.fork_server,
        ) as local,
    ):
        told.in_haste(local.supervisor.hurry)
        async with (
            connected(local.target, timeout=_REACH_LIMIT, name=SUPERVISOR) as hub,
            supervision(hub, local),
            FleetWatch(hub) as watch,
        ):
            run = _Run(request, told, local, hub, watch, news)
            return await run.whole()


class _Run:
    """One run, in the order of its methods."""

    def __init__(
        self,
        request: UpRequest,
        told: Told,
        local: LocalFleet,
        hub: Hub,
        watch: FleetWatch,
        news: asyncio.Queue[ProcessEnd | str],
    ) -> None:
        self._request, self._told, self._local, self._hub, self._watch, self._news = request, told, local, hub, watch, news
        self._options = request.options.model_copy(update={"run": f"{request.fleet.name}-{secrets.token_hex(4)}"})
        self._view = request.view()
        self._last: FleetStatus | None = None
        self._begun = self._led = self._taken = False
        self._over: dict[str, ProcessEnd] = {}
        self._in_trouble = False

    async def whole(self) -> ExitCode:
        tasks = Tasks("fabric up")
        try:
            tasks.start(self._report_news(), "report of ended processes")
            tasks.start(self._local.start_services(self._hub), "start of processes")
            code = await self._until_told()
        finally:
            await tasks.aclose()
            self._view.close()
        if self._begun:
            await self._down()
        return code

    async def _until_told(self) -> ExitCode:
        await self._told.unless(self._ask_to_start())
        concluded: FleetStatus | None = None
        while (status := await self._told.unless(self._next())) is not None:
            if status.state is RunState.IDLE:  # a new coordinator in place of one that died: it adopts what runs
                await self._told.unless(self._ask_to_start())
                continue
            self._taken = self._taken or status.run == self._options.run
            if not self._taken:  # what another one left on this broker
                continue
            if self._last is not None and status.epoch != self._last.epoch:
                await self._tell_ended()
            self._last = status
            self._view.show(status)
            for service in status.services:
                for instance in service.instances:
                    if instance.state == "running":
                        self._local.supervisor.mark_up(instance.id)
            if concluded is None and status.state.is_settled:
                concluded = status
                self._view.close()
                self._request.concluded(status, self._local)
                if not self._request.stay.after(status.state):
                    break
                self._view = self._request.view()
            elif status.state is RunState.STOPPED:
                break
        if concluded is None:
            return ExitCode.INTERRUPTED
        assert self._last is not None
        usable = concluded.state.is_usable and self._last.state is not RunState.FAILED
        return ExitCode.OK if usable else ExitCode.FAILED

    async def _ask_to_start(self) -> None:
        self._begun = True
        self._watch.put(await ask_to_start(self._hub, self._options, limit=_REACH_LIMIT, look=self._check_coordinator))
        for name in (BROKER, COORDINATOR):
            self._local.supervisor.mark_up(name)
        self._led = True
        await self._tell_ended()

    async def _next(self) -> FleetStatus:
        while True:
            try:
                return await asyncio.wait_for(self._watch.next(), 1.0)
            except TimeoutError:
                self._check_coordinator()
                if self._watch.trouble and not self._in_trouble:
                    self._view.note(f"no word from the coordinator: {self._watch.trouble}")
                self._in_trouble = bool(self._watch.trouble)

    def _check_coordinator(self) -> None:
        if error := self._local.coordinator_failed():
            raise error

    async def _report_news(self) -> None:
        while True:
            end = await self._news.get()
            if isinstance(end, str):
                self._view.note(end)
                continue
            self._view.note(f"{end.name}: process {end.pid} {describe_end(end)}")
            if end.service in (BROKER, COORDINATOR):
                continue
            if end.restarting_in is None:
                self._over[end.name] = end
            if self._led:
                await self._tell(end)

    async def _tell_ended(self) -> None:
        """To a coordinator that has only now a run, or that took the place of another: the news of before were lost on it."""
        for end in tuple(self._over.values()):
            await self._tell(end)

    async def _tell(self, end: ProcessEnd) -> None:
        exit = ProcessExit(
            service=end.service,
            instance=end.name,
            pid=end.pid,
            code=end.code,
            log=end.log,
            restarting_in=end.restarting_in,
        )
        try:
            await self._hub.call("coordinator", "process_exited", exit, timeout=20.0, idempotent=True)
        except FabricError as error:
            self._view.note(f"can't tell the coordinator that {end.name} ended: {error}")

    async def _down(self) -> None:
        """In reverse order, by the coordinator; a second Ctrl-C cuts it short, and the supervisor ends what is left."""
        view = self._request.view()
        tasks = Tasks("fabric up, stopping")
        try:
            tasks.start(self._show_all(view), "show")
            down = self._hub.call("coordinator", "down", returns=FleetStatus, timeout=_DOWN_LIMIT)
            if stopped := await self._told.unless_in_haste(down):
                view.show(stopped)
        except FabricError as error:
            view.note(f"the coordinator could not stop the fleet in order: {error}")
        finally:
            await tasks.aclose()
            view.close()

    async def _show_all(self, view: View) -> None:
        while True:
            view.show(await self._watch.next())


def describe_end(end: ProcessEnd) -> str:
    """How a process ended and what follows, for people."""
    if end.code < 0:
        try:
            how = f"was killed by {signal.Signals(-end.code).name}"
        except ValueError:
            how = f"was killed by signal {-end.code}"
    elif end.code == EXIT_UNSEEN:
        how = "ended, how was not seen,"
    else:
        how = f"ended with exit code {end.code}"
    then = "" if end.restarting_in is None else f"; it is started again in {end.restarting_in:g} s"
    return f"{how} after {end.uptime:.1f} s{then}"
