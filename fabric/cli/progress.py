"""Follows a run: every status that the coordinator broadcasts, and one that is asked for where none came."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from fabric.coordination.status import FleetStatus
from fabric.errors import FabricError, InvalidMessage
from fabric.hub import Hub
from fabric.tasks import Tasks
from fabric.transports.base import Consumer, Delivery
from fabric.wire import batch

PROGRESS = "fleet.progress"


class FleetWatch:
    """The states of a run, newest last, none twice and none out of order.

    Args:
        every: seconds between questions to the coordinator. Broadcasts are best effort: this bounds how long a lost one
            stays unnoticed.
    """

    def __init__(self, hub: Hub, *, every: float = 1.0) -> None:
        self._hub, self._every = hub, every
        self._found: asyncio.Queue[FleetStatus] = asyncio.Queue()
        self._last = (-1, -1)
        self._tasks = Tasks("fleet watch")
        self._consumer: Consumer | None = None
        self.trouble = ""

    async def __aenter__(self) -> Self:
        self._consumer = await self._hub.transport.consume(
            self._hub.topology.broadcasts(), self._receive, timeout=self._hub.settings.connect_timeout
        )
        self._tasks.start(self._ask(), "ask")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._tasks.aclose()
        if self._consumer is not None:
            await self._consumer.aclose()

    async def next(self) -> FleetStatus:
        """The next change; waits for it."""
        return await self._found.get()

    def put(self, status: FleetStatus) -> None:
        """A status that came in another way, as the answer to a command."""
        place = (status.epoch, status.sequence)
        if place > self._last:
            self._last = place
            self._found.put_nowait(status)

    def _receive(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            if not isinstance(message, InvalidMessage) and message.method == PROGRESS:
                try:
                    self.put(FleetStatus.model_validate(message.payload))
                except ValidationError as error:
                    self.trouble = f"a status that this version does not understand: {error}"

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                self.put(await self._hub.call("coordinator", "status", returns=FleetStatus, timeout=5.0))
                self.trouble = ""
            except FabricError as error:
                self.trouble = error.text
