"""What the coordinator asks of whoever runs the processes: start one in a version, end one. ``fabric up`` does it."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from fabric.errors import NoInstance, RemoteError, ServiceError
from fabric.hub import Hub
from fabric.startup.events import Command

SUPERVISOR: Final = "fabric-supervisor"
_PREPARE_LIMIT: Final = 20.0
_START_LIMIT: Final = 60.0
_END_LIMIT: Final = 10.0
"""Seconds on top of the time that a process has to end by itself."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Versions(_Plain):
    """Names of what services run: ``version`` as their file says now, ``previous`` as they run at the moment. Equal where the
    file has not changed."""

    version: str
    previous: str


class StartOrder(_Plain):
    """Have one process of ``instance`` in ``version``, in place of the one that runs. The same ``run`` and ``attempt`` again
    changes nothing. ``epoch`` is the coordinator's; lower ones than the highest are refused."""

    service: str
    instance: str
    version: str
    run: str
    attempt: int
    epoch: int


class EndOrder(_Plain):
    """End the process of ``instance``, with ``grace`` seconds to finish its work."""

    service: str
    instance: str
    grace: float
    epoch: int


class Processes:
    """The supervisor behind the bus."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def prepare(self, services: tuple[str, ...]) -> Versions:
        """Have the fleet file read again.

        Raises:
            ServiceError: nobody supervises the processes, or the file is wrong.
        """
        try:
            return await self._hub.call(
                SUPERVISOR, "prepare", {"services": list(services)}, returns=Versions, timeout=_PREPARE_LIMIT
            )
        except NoInstance as error:
            raise ServiceError(
                "nobody here can start processes anew; a fleet that `fabric up` brought up can be restarted, one in containers "
                "is restarted by what runs those",
                code="coordinator.no-supervisor",
            ) from error
        except RemoteError as error:
            raise ServiceError(error.reason, code=error.code, details=error.details) from error

    async def start(self, command: Command) -> None:
        """Carry out a START of one instance in a version.

        Raises:
            CallError: it was refused, or nobody is there to do it.
        """
        assert command.instance is not None
        order = StartOrder(
            service=command.service,
            instance=command.instance,
            version=command.version,
            run=command.run,
            attempt=command.attempt,
            epoch=command.epoch,
        )
        await self._hub.call(SUPERVISOR, "start_process", order, timeout=_START_LIMIT, idempotent=True)

    async def end(self, command: Command) -> None:
        """Carry out a STOP of one instance; returns when its process is gone. Raises as ``start``."""
        assert command.instance is not None
        order = EndOrder(service=command.service, instance=command.instance, grace=command.timeout, epoch=command.epoch)
        await self._hub.call(SUPERVISOR, "end_process", order, timeout=command.timeout + _END_LIMIT, idempotent=True)
