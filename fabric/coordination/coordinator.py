"""The coordinator: a service like any other, which brings the rest of the fleet up and down."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import ClassVar

from fabric.contract import rpc
from fabric.coordination.fleet import Fleet
from fabric.coordination.participants import BusParticipants
from fabric.coordination.status import FleetStatus, ProcessExit, UpOptions
from fabric.coordination.view import fleet_status
from fabric.errors import ServiceError
from fabric.health import Health
from fabric.service import Service
from fabric.startup.driver import Driver
from fabric.startup.engine import Engine
from fabric.startup.events import (
    Action,
    CancelRequested,
    LeadershipTaken,
    Outcome,
    ProcessExited,
    RunRequested,
    ShutdownRequested,
)
from fabric.startup.stages import RunOptions

_log = logging.getLogger("fabric.coordinator")

PROGRESS = "fleet.progress"
PROGRESS_PAUSE = 0.02
"""Seconds in which changes are gathered into one broadcast: enough to spare the bus, too little to see."""
DOWN_TIMEOUT = 300.0


class Coordinator(Service):
    """Leads the start-up of one fleet.

    Args:
        fleet: what to bring up.
        autostart: begin at once, without being asked: for a fleet that containers start.
    """

    name: ClassVar[str] = "coordinator"
    version: ClassVar[str] = "1.0.0"

    def __init__(self, fleet: Fleet, *, autostart: UpOptions | None = None) -> None:
        self._fleet, self._autostart = fleet, autostart
        self._engine = Engine()
        self._driver: Driver | None = None
        self._participants: BusParticipants | None = None
        self._sequence = 0
        self._stopping = False
        self._changed = asyncio.Event()
        self._broadcasting: asyncio.TimerHandle | None = None
        self._runs = 0

    async def start(self) -> None:
        self._participants = BusParticipants(self.hub)
        await self._participants.open()
        self._driver = Driver(self._engine, self._participants, clock=self.hub.clock, changed=self._take_changes)
        self._driver.open()
        # Without a journal the time of this process's start fences: a later coordinator has a higher number.
        await self._driver.tell(LeadershipTaken(epoch=self.hub.incarnation))
        if self._autostart is not None:
            await self._begin(self._autostart)

    async def stop(self) -> None:
        if self._broadcasting is not None:
            self._broadcasting.cancel()
        if self._driver is not None:
            await self._driver.aclose()
        if self._participants is not None:
            await self._participants.aclose()

    async def check_health(self) -> Health:
        return Health.ok(f"leads with epoch {self._engine.epoch}")

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
        await self._told().tell(ShutdownRequested())
        while self._engine.plan is not None and self._engine.outcome is not Outcome.STOPPED:
            self._changed.clear()
            await self._changed.wait()
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def cancel(self, reason: str = "cancelled") -> FleetStatus:
        """Start nothing more and stop what is still starting; what is ready stays."""
        await self._told().tell(CancelRequested(reason=reason))
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def process_exited(self, exit: ProcessExit) -> None:
        """A supervisor saw a process end."""
        await self._told().tell(
            ProcessExited(service=exit.service, instance=exit.instance, code=exit.code, tail="\n".join(exit.log))
        )

    async def _begin(self, options: UpOptions) -> None:
        self._runs += 1
        self._stopping = False
        run = f"{self._fleet.name}-{self.hub.incarnation:x}-{self._runs}"
        await self._told().tell(
            RunRequested(
                run=run,
                services=self._fleet.definitions,
                stages=self._fleet.stages,
                options=RunOptions(
                    parallel=options.parallel,
                    slots=options.slots or self._fleet.slots,
                    budgets=self._fleet.budgets,
                    skip_optional=options.skip_optional,
                    abort_on_failure=options.abort_on_failure,
                ),
            )
        )

    def _told(self) -> Driver:
        if self._driver is None:
            raise ServiceError("the coordinator is not up yet", code="coordinator.not-up", retryable=True)
        return self._driver

    def _status(self) -> FleetStatus:
        self._sequence += 1
        announced = {
            name: self.hub.registry.instances(name) for name in (self._engine.plan.services if self._engine.plan else ())
        }
        return fleet_status(self._engine, self._fleet.name, announced, sequence=self._sequence, stopping=self._stopping)

    def _take_changes(self, actions: list[Action]) -> None:
        self._changed.set()
        if self._broadcasting is None:
            self._broadcasting = asyncio.get_running_loop().call_later(PROGRESS_PAUSE, self._broadcast)

    def _broadcast(self) -> None:
        self._broadcasting = None
        self.hub.broadcast(PROGRESS, self._status())


def coordinator_from_environment(fleet: Fleet) -> Coordinator:
    """``FABRIC_AUTOSTART=1`` begins at once."""
    autostart = UpOptions() if os.environ.get("FABRIC_AUTOSTART", "") in ("1", "true", "yes") else None
    return Coordinator(fleet, autostart=autostart)
