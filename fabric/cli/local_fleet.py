"""The processes of one fleet on this machine: a broker where none is given, the coordinator, the instances."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fabric.cli.launch import BROKER, COORDINATOR, Launch
from fabric.cli.process import ProcessEnd, ProcessState
from fabric.cli.record import FleetDirectory, Record
from fabric.cli.supervisor import Supervisor
from fabric.cli.target import Target
from fabric.coordination.fleet import Fleet, RunSpec, load_fleet
from fabric.errors import NoRoute, StartupError
from fabric.hub import Hub
from fabric.routing.registry import Happening, RegistryEvent
from fabric.startup.advice import Estimate
from fabric.tasks import Tasks

_FORKED_PER_CORE = 8
_JOIN_LIMIT = 20.0
"""Seconds after which an instance that did not announce itself no longer holds back the next one."""


class LocalFleet:
    """Made by :func:`local_fleet`.

    Attributes:
        target: how to reach it.
        supervisor: owns the processes.
    """

    def __init__(self, launch: Launch, directory: FleetDirectory, supervisor: Supervisor) -> None:
        self._launch, self._directory, self.supervisor = launch, directory, supervisor
        self._specs = {spec.name: spec for spec in launch.services()}
        self._runs = {name: launch.fleet.runs[spec.service] for name, spec in self._specs.items()}
        self._hands: dict[str, asyncio.Lock] = {}
        self._started_at = time.time()
        self._here: dict[str, asyncio.Event] = {}
        self.target = Target(broker_url=launch.broker_url, namespace=launch.namespace)

    async def start_broker(self, socket: Path, *, limit: float = 20.0) -> None:
        """Start the embedded broker and wait until it listens.

        Raises:
            StartupError: it ended, or did not listen within ``limit`` seconds.
        """
        await self.supervisor.start(self._launch.broker(socket))
        deadline = time.monotonic() + limit
        while not await _listens(socket):
            if time.monotonic() > deadline or self._state(BROKER) is ProcessState.ENDED:
                raise StartupError(self._with_log("the embedded broker did not start", BROKER))
            await asyncio.sleep(0.02)

    async def start_coordinator(self) -> None:
        await self.supervisor.start(self._launch.coordinator())

    def coordinator_failed(self) -> StartupError | None:
        """Set when the coordinator has ended for good."""
        if self._state(COORDINATOR) is ProcessState.ENDED:
            return StartupError(self._with_log("the coordinator ended", COORDINATOR))
        return None

    async def start_services(self, hub: Hub) -> None:
        """Start the process of every instance, early stages first, a few at a time.

        Loading a process takes a core for a while. Were all loaded at once, those that are wanted first would share the
        cores with those that must wait anyway; so the next is loaded when one of those before has announced itself. A fork
        loads only what is the service's own, and many may do that at once.
        """
        places = asyncio.Semaphore(1 + (os.cpu_count() or 1) * (_FORKED_PER_CORE if self.supervisor.forks else 1))
        tasks = Tasks("start of processes")
        unwatch = hub.registry.watch(self._heard)
        try:
            with contextlib.suppress(NoRoute):  # nobody is there yet
                await hub.discover_all()
            for spec in tuple(self._specs.values()):
                await places.acquire()
                here = self._here[spec.name] = asyncio.Event()
                await self.supervisor.start(spec)
                tasks.start(_free_when(here, places), spec.name)
            await tasks.wait(_JOIN_LIMIT)
        finally:
            unwatch()
            await tasks.aclose()

    def noticed(self, end: ProcessEnd) -> None:
        """A process ended: nobody waits for it to announce itself."""
        if here := self._here.get(end.name):
            here.set()

    def _heard(self, event: RegistryEvent) -> None:
        if event.happening in (Happening.JOINED, Happening.CHANGED) and (here := self._here.get(event.instance.id)):
            here.set()

    async def stop_services(self) -> None:
        """End the processes of the instances, all at once; the coordinator has stopped the services in order before."""
        await self.supervisor.stop(*self._specs)

    def runs_of(self, service: str) -> RunSpec:
        """How the first of its instances is run at the moment.

        Raises:
            KeyError: it is not in the fleet.
        """
        return next(run for name, run in sorted(self._runs.items()) if run.service == service)

    def reread(self) -> Fleet:
        """Its file as it is now.

        Raises:
            ConfigurationError: the file is wrong.
        """
        return load_fleet(self._launch.fleet.path)

    def pid_of(self, instance: str) -> int:
        """Its process id, 0 while it has none."""
        return next((view.pid for view in self.supervisor.view() if view.name == instance), 0)

    async def replace(self, instance: str, run: RunSpec) -> int:
        """Run the process of an instance, in place of the one that it has, as ``run`` says. Returns its process id, 0 when it
        could not be started.

        Raises:
            ConfigurationError: that does not say how.
        """
        spec = self._launch.instance(instance, run)
        async with self._hands.setdefault(instance, asyncio.Lock()):
            await self.supervisor.stop(instance)
            self._specs[instance], self._runs[instance] = spec, run
            return await self.supervisor.start(spec)

    async def end(self, instance: str, grace: float) -> None:
        """End the process of an instance, with ``grace`` seconds to finish its work; returns when it is gone."""
        async with self._hands.setdefault(instance, asyncio.Lock()):
            await self.supervisor.stop(instance, grace=grace)
            self.record()

    def log_of(self, service: str) -> tuple[str, ...]:
        """The last lines of its first instance that has any."""
        for view in self.supervisor.view():
            if view.service == service and (lines := self.supervisor.tail(view.name)):
                return lines
        return ()

    def log_path(self, service: str) -> Path:
        return self._directory.logs / f"{service}-1.log"

    @property
    def prediction(self) -> Estimate | None:
        """What its file says that its stages bring."""
        return self._launch.fleet.prediction

    @property
    def history(self) -> Path:
        """Where the profiles of its runs are kept."""
        return self._directory.history

    def record(self) -> None:
        """Write down the processes as they are now, for other commands."""
        fleet = self._launch.fleet
        self._directory.write(
            Record(
                fleet=fleet.name,
                path=str(fleet.path),
                root=str(self._launch.root),
                namespace=self.target.namespace,
                broker_url=self.target.broker_url,
                pid=os.getpid(),
                started_at=self._started_at,
                processes={view.name: view.pid for view in self.supervisor.view() if view.state is ProcessState.RUNNING},
            )
        )

    def _state(self, name: str) -> ProcessState | None:
        return next((view.state for view in self.supervisor.view() if view.name == name), None)

    def _with_log(self, what: str, name: str) -> str:
        return "\n".join([f"{what}; the end of its log:", *(f"  {line}" for line in self.supervisor.tail(name, lines=15))])


@asynccontextmanager
async def local_fleet(
    fleet: Fleet,
    *,
    broker_url: str | None,
    namespace: str | None,
    root: Path,
    on_end: Callable[[ProcessEnd], None],
    on_note: Callable[[str], None] = lambda text: None,
    fork_server: bool = True,
    grace: float = 15.0,
) -> AsyncIterator[LocalFleet]:
    """The broker and the coordinator of ``fleet`` run on entry; nothing of it runs after exit.

    Args:
        broker_url: None starts the embedded broker.
        root: where ``.fabric`` is, and where the processes are started.
        on_end: told of each process that ended by itself.
        on_note: told what people should know besides.
        fork_server: make processes of Fabric's own by one that has it loaded; starting each afresh takes longer.

    Raises:
        ConfigurationError: it runs here already, or the file does not say how to start a service.
        StartupError: the broker did not start.
    """
    directory = FleetDirectory(root, fleet.name)
    with directory.claim(), directory.socket() as socket:
        launch = Launch(
            fleet=fleet,
            broker_url=broker_url or f"unix://{socket}",
            namespace=namespace or fleet.namespace,
            root=root,
            history=directory.history,
        )
        async with Supervisor(
            log_dir=directory.logs,
            on_start=lambda: local.record(),
            on_end=lambda end: ended(end),
            on_note=on_note,
            grace=grace,
            fork=launch.fork_server() if fork_server else None,
        ) as supervisor:
            local = LocalFleet(launch, directory, supervisor)

            def ended(end: ProcessEnd) -> None:
                local.noticed(end)
                local.record()
                on_end(end)

            if broker_url is None:
                await local.start_broker(socket)
            await local.start_coordinator()
            try:
                yield local
            finally:
                await local.stop_services()


async def _free_when(here: asyncio.Event, places: asyncio.Semaphore) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(here.wait(), _JOIN_LIMIT)
    places.release()


async def _listens(socket: Path) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(str(socket)), 2.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
