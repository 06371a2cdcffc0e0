"""The supervisor on the bus: the coordinator has it start and end processes one by one, for rolling restarts."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import ClassVar

from fabric.cli.local_fleet import LocalFleet
from fabric.contract import rpc
from fabric.coordination.fleet import RunSpec
from fabric.coordination.processes import SUPERVISOR, EndOrder, StartOrder, Versions
from fabric.errors import ConfigurationError, ServiceError
from fabric.hub import Hub
from fabric.service import Service


class Supervision(Service):
    """Carries out what the coordinator asks for. A version is how a set of services is run; its name comes from that alone."""

    name: ClassVar[str] = SUPERVISOR
    version: ClassVar[str] = "1.0.0"

    def __init__(self, local: LocalFleet) -> None:
        self._local = local
        self._versions: dict[str, dict[str, RunSpec]] = {}
        self._done: dict[str, tuple[str, int]] = {}
        self._epoch = 0

    @rpc(idempotent=True, timeout=20.0)
    async def prepare(self, services: list[str]) -> Versions:
        """Read the fleet file again, and name what these services run and what they are to run."""
        try:
            fleet = self._local.reread()
            now = {service: self._local.runs_of(service) for service in services}
            wanted = {service: fleet.runs[service] for service in services}
        except ConfigurationError as error:
            raise ServiceError(str(error), code="supervisor.fleet-file") from error
        except KeyError as error:
            raise ServiceError(f"{error.args[0]} is not in the fleet file any more", code="supervisor.fleet-file") from error
        for service, run in wanted.items():
            if not run.is_ours:
                raise ServiceError(f"{service} has neither run nor command any more", code="supervisor.fleet-file")
        await self._local.supervisor.load_anew()
        return Versions(version=self._named(wanted), previous=self._named(now))

    @rpc(idempotent=True, timeout=60.0)
    async def start_process(self, order: StartOrder) -> int:
        """Returns the process id, 0 when it could not be started; its end is then reported as any other."""
        self._fence(order.epoch)
        run = self._versions.get(order.version, {}).get(order.service)
        if run is None:
            unknown = f"there is no version {order.version!r} of {order.service} here"
            raise ServiceError(unknown, code="supervisor.unknown-version")
        step = (order.run, order.attempt)
        if self._done.get(order.instance) == step:
            return self._local.pid_of(order.instance)
        self._done[order.instance] = step
        return await self._local.replace(order.instance, run)

    @rpc(idempotent=True, timeout=600.0)
    async def end_process(self, order: EndOrder) -> None:
        """Returns when it is gone."""
        self._fence(order.epoch)
        await self._local.end(order.instance, order.grace)

    def _named(self, runs: dict[str, RunSpec]) -> str:
        facts = [(name, run.target, run.command, sorted(run.env.items()), str(run.cwd)) for name, run in sorted(runs.items())]
        name = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
        self._versions[name] = runs
        return name

    def _fence(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise ServiceError(f"a coordinator with epoch {self._epoch} leads, not one with {epoch}", code="supervisor.stale")
        self._epoch = epoch


@contextlib.asynccontextmanager
async def supervision(hub: Hub, local: LocalFleet) -> AsyncIterator[None]:
    """While it lasts the coordinator can have processes started and ended. ``hub`` speaks as the supervisor."""
    served = await hub.serve(Supervision(local))
    await served.open_doors()
    try:
        yield
    finally:
        await served.aclose()
