"""Finding out that an instance, or what it was asked, is gone.

Silence proves nothing: an instance may just be busy. Two things prove a loss, and each second those instances are asked that
are silent or owe an answer: the broker says that the inbox is gone, or the instance itself says that it does not have the
request. The question goes at the lowest priority, so that it never overtakes what it asks about, neither there nor back.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Sequence

from fabric.clock import Clock
from fabric.config import Settings
from fabric.errors import FabricError, NoRoute
from fabric.identity import Identity
from fabric.requests import PendingRequests
from fabric.routing.registry import ServiceRegistry
from fabric.tasks import Tasks
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.transports.topology import Topology
from fabric.wire import codec
from fabric.wire.message import MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.detector")

PROBE = "fabric.probe"
PROBE_TIMEOUT = 2.0
PATIENCE = 1.0
"""Seconds that an answer may take before its instance is asked about it."""
MOST_PROBES = 200
MOST_NAMED = 1000


class Detector:
    """Watches the instances that a hub knows and those that owe it answers. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        registry: ServiceRegistry,
        pending: PendingRequests,
        settings: Settings,
        me: Identity,
        *,
        clock: Clock,
    ) -> None:
        self._transport, self._exchange, self._registry, self._pending = transport, topology.rpc, registry, pending
        self._me, self._clock = me, clock
        self._interval = min(1.0, settings.heartbeat_interval)
        self._silence = settings.heartbeat_interval * settings.lost_after
        self._probing: set[str] = set()
        self._last = ""
        self._tasks = Tasks("detector")
        self._unwatch = transport.watch(self._link_changed)

    def start(self) -> None:
        self._tasks.start(self._watch(), "watch the instances")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self._transport.state is LinkState.READY:
                self.look(PATIENCE)

    def look(self, patience: float) -> None:
        """Ask the silent, and those that owe an answer for longer than ``patience`` seconds."""
        silent = [endpoint.id for endpoint in self._registry.overdue(self._clock.monotonic() - self._silence)]
        for id in silent:
            self._registry.suspect(id)
        owed = self._pending.owed(patience)
        due = sorted({*silent, *owed} - self._probing)
        turn = bisect_right(due, self._last)
        for id in (due[turn:] + due[:turn])[:MOST_PROBES]:
            self._last = id
            self._probing.add(id)
            self._tasks.start(self._probe(id, owed.get(id, ())), f"probe {id}")

    async def _probe(self, id: str, requests: Sequence[str]) -> None:
        try:
            for start in range(0, max(len(requests), 1), MOST_NAMED):
                await self._ask(id, requests[start : start + MOST_NAMED])
        except NoRoute:
            self._pending.lose(id, "its inbox is gone from the broker")
        except FabricError as error:
            _log.debug("probe of %s: %s", id, error)
        finally:
            self._probing.discard(id)

    async def _ask(self, id: str, requests: Sequence[str]) -> None:
        message = ServiceMessage(
            self._me.ids.next(),
            MessageType.PROBE,
            "",
            self._me.address,
            id,
            PROBE,
            list(requests),
            Priority.LOW,
            reply_to=self._me.address,
        )
        await self._transport.send(
            self._exchange,
            id,
            codec.encode(message),
            timeout=PROBE_TIMEOUT,
            priority=Priority.LOW,
            expires=PROBE_TIMEOUT,
            mandatory=True,
        )

    def answered(self, message: ServiceMessage) -> None:
        """Take an instance's word on what it does not have."""
        if isinstance(message.payload, list):
            self._pending.forgotten(id for id in message.payload if isinstance(id, str))

    def _link_changed(self, event: LinkEvent) -> None:
        """Answers may have been dropped while our link, or the queue that they come to, was gone."""
        if event.state is LinkState.READY and event.epoch > 1:
            self.look(0.0)

    async def aclose(self) -> None:
        self._unwatch()
        await self._tasks.aclose()
