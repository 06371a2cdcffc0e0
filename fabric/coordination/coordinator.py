"""The coordinator: a service like any other, which brings the rest of the fleet up and down."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from pathlib import Path
from typing import ClassVar

from fabric.contract import rpc
from fabric.coordination.fleet import Fleet
from fabric.coordination.participants import BusParticipants
from fabric.coordination.status import FleetStatus, ProcessExit, RunState, UpOptions
from fabric.coordination.view import fleet_status, with_profile
from fabric.errors import ConfigurationError, ServiceError, StartupError, UnknownName
from fabric.health import Health
from fabric.service import Service
from fabric.startup.events import ProcessExited, Progress
from fabric.startup.history import ProfileHistory
from fabric.startup.orchestrator import StartupOrchestrator
from fabric.startup.profile import StartupProfile
from fabric.tasks import Tasks

_log = logging.getLogger("fabric.coordinator")

PROGRESS = "fleet.progress"
PROGRESS_PAUSE = 0.02
"""Seconds in which changes are gathered into one broadcast: enough to spare the bus, too little to see."""
DOWN_TIMEOUT = 300.0
_RECORD_LIMIT = 5.0
"""Seconds that a run which ended just before the stop has to be recorded."""


class Coordinator(Service):
    """Leads the start-up of one fleet.

    Args:
        fleet: what to bring up.
        autostart: begin at once, without being asked: for a fleet that containers start.
        history: the file where the profile of each run is kept; what services took before orders the next start.
    """

    name: ClassVar[str] = "coordinator"
    version: ClassVar[str] = "1.0.0"

    def __init__(self, fleet: Fleet, *, autostart: UpOptions | None = None, history: Path | None = None) -> None:
        self._fleet, self._autostart, self._path = fleet, autostart, history
        self._history: ProfileHistory | None = None
        self._participants: BusParticipants | None = None
        self._orchestrator: StartupOrchestrator | None = None
        self._tasks = Tasks("coordinator")
        self._changed = asyncio.Event()
        self._broadcasting: asyncio.TimerHandle | None = None
        self._profile: StartupProfile | None = None
        self._sequence = self._runs = 0
        self._stopping = False

    async def start(self) -> None:
        self._participants = BusParticipants(self.hub)
        await self._participants.open()
        self._history, durations = await asyncio.to_thread(self._recall)
        # Without a journal the time of this process's start fences: a later coordinator has a higher number.
        self._orchestrator = StartupOrchestrator(
            self._fleet.graph,
            self._participants,
            clock=self.hub.clock,
            epoch=self.hub.incarnation,
            durations=durations,
            watch=self._take_progress,
        )
        if self._autostart is not None:
            await self._begin(self._autostart)

    async def stop(self) -> None:
        if self._broadcasting is not None:
            self._broadcasting.cancel()
        if self._orchestrator is not None:
            await self._orchestrator.aclose()
        await self._tasks.wait(_RECORD_LIMIT)
        await self._tasks.aclose()
        if self._participants is not None:
            await self._participants.aclose()
        if self._history is not None:
            self._history.close()

    async def check_health(self) -> Health:
        return Health.ok(f"leads with epoch {self.hub.incarnation}")

    @rpc(timeout=10.0)
    async def up(self, options: UpOptions) -> FleetStatus:
        """Begin a run in the background; one that is under way is superseded, and what runs is adopted."""
        await self._begin(options)
        return self._status()

    @rpc(idempotent=True, timeout=5.0)
    async def status(self) -> FleetStatus:
        return self._status()

    @rpc(idempotent=True, timeout=DOWN_TIMEOUT)
    async def down(self) -> FleetStatus:
        """Stop everything in reverse order; returns when it is stopped."""
        self._stopping = True
        await self._leading().shutdown()
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def cancel(self, reason: str = "cancelled") -> FleetStatus:
        """Start nothing more and stop what is still starting; what is ready stays."""
        self._leading().cancel(reason)
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def explain(self, service: str) -> str:
        """Why a service is not up, or why it took that long: one line a reason, indented by cause."""
        try:
            return str(self._leading().explain(service))
        except UnknownName as error:
            raise ServiceError(str(error), code="coordinator.unknown-service") from error
        except LookupError as error:
            raise ServiceError("there was no run yet", code="coordinator.no-run") from error

    @rpc(idempotent=True, timeout=10.0)
    async def process_exited(self, exit: ProcessExit) -> None:
        """A supervisor saw a process end."""
        if self._participants is not None:
            self._participants.tell(
                ProcessExited(service=exit.service, instance=exit.instance, code=exit.code, tail="\n".join(exit.log))
            )

    async def _begin(self, options: UpOptions) -> None:
        orchestrator = self._leading()
        self._runs += 1
        self._stopping = False
        self._profile = None
        run = f"{self._fleet.name}-{self.hub.incarnation:x}-{self._runs}"
        self._tasks.start(self._run(orchestrator, run, options), f"run {run}")
        while orchestrator.engine.run != run:
            self._changed.clear()
            await self._changed.wait()

    async def _run(self, orchestrator: StartupOrchestrator, run: str, options: UpOptions) -> None:
        try:
            profile = await orchestrator.startup(
                self._fleet.stages,
                parallel=options.parallel,
                skip_optional=options.skip_optional,
                abort_on_failure=options.abort_on_failure,
                slots=options.slots or self._fleet.slots,
                budgets=self._fleet.budgets,
                run=run,
            )
        except StartupError as error:
            _log.warning("run %s: %s", run, error)
            return
        if orchestrator.engine.run == run:
            self._profile = profile
            self._tell_everybody()
        if self._history is not None:
            await asyncio.to_thread(self._keep, self._history, profile)

    def _recall(self) -> tuple[ProfileHistory | None, dict[str, float]]:
        """The history and what it knows. A fleet must not stay down because of it."""
        if self._path is None:
            return None, {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            history = ProfileHistory(self._path)
            return history, history.durations(self._fleet.name)
        except (ConfigurationError, OSError) as error:
            _log.warning("this run is not recorded: %s", error)
            return None, {}

    def _keep(self, history: ProfileHistory, profile: StartupProfile) -> None:
        try:
            history.add(self._fleet.name, profile)
        except sqlite3.Error as error:
            _log.warning("run %s is not recorded: %s", profile.run, error)

    def _leading(self) -> StartupOrchestrator:
        if self._orchestrator is None:
            raise ServiceError("the coordinator is not up yet", code="coordinator.not-up", retryable=True)
        return self._orchestrator

    def _status(self) -> FleetStatus:
        self._sequence += 1
        engine = self._leading().engine
        names = engine.plan.services if engine.plan is not None else ()
        status = fleet_status(
            engine,
            self._fleet.name,
            {name: self.hub.registry.instances(name) for name in names},
            sequence=self._sequence,
            stopping=self._stopping,
        )
        if self._profile is not None:
            return with_profile(status, self._profile)
        if engine.plan is not None and status.state.is_settled and not self._stopping:
            # The run has ended, and what came of it is being written down: whoever waits for the end gets both at once.
            return status.model_copy(update={"state": RunState.STARTING})
        return status

    def _take_progress(self, progress: Progress) -> None:
        self._changed.set()
        self._tell_everybody()

    def _tell_everybody(self) -> None:
        if self._broadcasting is None:
            self._broadcasting = asyncio.get_running_loop().call_later(PROGRESS_PAUSE, self._broadcast)

    def _broadcast(self) -> None:
        self._broadcasting = None
        self.hub.broadcast(PROGRESS, self._status())


def coordinator_from_environment(fleet: Fleet) -> Coordinator:
    """``FABRIC_AUTOSTART=1`` begins at once."""
    autostart = UpOptions() if os.environ.get("FABRIC_AUTOSTART", "") in ("1", "true", "yes") else None
    return Coordinator(fleet, autostart=autostart)
