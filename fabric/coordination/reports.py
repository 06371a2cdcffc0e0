"""What an agent tells the coordinator: numbered, in order, and confirmed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fabric.coordination.control import Report, report_message
from fabric.errors import FabricError, NoRoute
from fabric.hub import Hub
from fabric.startup.events import Vote
from fabric.transports import topology
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import MessageIds

_log = logging.getLogger("fabric.agent")

_MOST = 1000


class Reports:
    """The reports of one instance. Owned by its agent, which runs ``send``.

    Args:
        service: that it is an instance of.
        vote_valid_for: seconds that a vote counts.
        timeout: seconds to hand a report to the broker; then it is dropped, for the next one says more.

    Attributes:
        epoch: of the coordinator that was obeyed last; each report says it.
    """

    def __init__(self, hub: Hub, service: str, *, vote_valid_for: float, timeout: float) -> None:
        self._hub, self._service = hub, service
        self._vote_valid_for, self._timeout = vote_valid_for, timeout
        self._ids = MessageIds()
        self._sequence = 0
        self._waiting: asyncio.Queue[Report] = asyncio.Queue(maxsize=_MOST)
        self.epoch = 0

    def tell(self, kind: Callable[..., Report], **facts: Any) -> None:
        """Send one as soon as may be. Where too many wait the oldest is dropped."""
        self._sequence += 1
        report = kind(
            service=self._service,
            instance=self._hub.instance,
            incarnation=self._hub.incarnation,
            sequence=self._sequence,
            epoch=self.epoch,
            **facts,
        )
        if self._waiting.full():
            self._waiting.get_nowait()
            self._waiting.task_done()
        self._waiting.put_nowait(report)

    async def send(self) -> None:
        """In order and confirmed, until cancelled. One that finds no coordinator is dropped: a new leader asks everybody anew."""
        while True:
            reports = [await self._waiting.get()]
            while not self._waiting.empty():  # what came meanwhile goes at once, and not after one more confirm each
                reports.append(self._waiting.get_nowait())
            bodies = [report_message(report, self._vote_valid_for, id=self._ids.next()) for report in _newest_vote(reports)]
            lone = len(bodies) == 1
            try:
                await self._hub.transport.send(
                    self._hub.topology.control,
                    topology.vote(self._service),
                    bodies[0] if lone else batch.join(bodies),
                    timeout=self._timeout,
                    content_type=MSGPACK if lone else batch.BATCH,
                    mandatory=True,
                )
            except NoRoute:
                _log.debug("no coordinator takes the reports %s", _kinds(reports))
            except FabricError as error:
                _log.warning("%s could not report %s: %s", self._hub.instance, _kinds(reports), error)
            finally:
                for _ in reports:
                    self._waiting.task_done()

    async def handed_over(self, timeout: float) -> None:
        """Until all were sent or dropped; at most ``timeout`` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.join(), timeout)


def _newest_vote(reports: Sequence[Report]) -> list[Report]:
    """Without the votes that a later one among them overtook."""
    last = max((at for at, report in enumerate(reports) if isinstance(report, Vote)), default=-1)
    return [report for at, report in enumerate(reports) if at == last or not isinstance(report, Vote)]


def _kinds(reports: Sequence[Report]) -> str:
    return ", ".join(dict.fromkeys(type(report).__name__ for report in reports))
