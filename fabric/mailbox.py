"""The queue that answers to one hub come to."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fabric.clock import Clock
from fabric.config import Settings
from fabric.detector import Detector
from fabric.errors import InvalidMessage
from fabric.identity import Identity
from fabric.presence import UP, Presence
from fabric.refusals import Refusals
from fabric.requests import PendingRequests
from fabric.transports.base import Consumer, Delivery, LinkEvent, LinkState, Transport
from fabric.transports.topology import Topology
from fabric.wire import batch, codec, rows
from fabric.wire.message import MessageType

_log = logging.getLogger("fabric.mailbox")


class Mailbox:
    """Hands what comes to whoever has asked. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        settings: Settings,
        me: Identity,
        requests: PendingRequests,
        detector: Detector,
        presence: Presence,
        *,
        clock: Clock,
    ) -> None:
        self._clock, self._refusals = clock, Refusals(_log, clock)
        self._transport, self._topology, self._me = transport, topology, me
        self._requests, self._detector, self._presence = requests, detector, presence
        self._limits = codec.Limits(message_bytes=settings.max_message_bytes)
        self._consumer: Consumer | None = None
        self._unwatch: Callable[[], None] = lambda: None

    @property
    def queue(self) -> str:
        """Its name in this epoch."""
        return self._consumer.address if self._consumer is not None else ""

    async def open(self, *, timeout: float) -> None:
        """
        Raises:
            ConnectionLost: the broker was not reached within ``timeout`` seconds.
        """
        queue = self._topology.replies(self._me.address)
        self._consumer = await self._transport.consume(queue, self._receive, timeout=timeout)
        self._unwatch = self._transport.watch(self._link_changed)

    def _receive(self, delivery: Delivery) -> None:
        now = self._clock.monotonic()
        if delivery.content_type == rows.ROWS:
            plain, came, load = rows.answers(delivery.body, self._limits)
            self._requests.take(plain, now, load)
        else:
            came = batch.messages(delivery.body, delivery.content_type, self._limits)
        if not came:
            return
        for message in self._requests.answer(came, now):
            if isinstance(message, InvalidMessage):
                self._refusals.tell("%s refused an answer: %s", self._me.instance, message)
            elif message.type is MessageType.PROBE:
                self._detector.answered(message)
            elif message.method == UP:
                self._presence.heard(message)

    def _link_changed(self, event: LinkEvent) -> None:
        """It may have been deleted under us, with what it held."""
        if event.state is LinkState.READY and event.consumer and event.consumer == self.queue:
            self._detector.look(0.0)

    async def aclose(self) -> None:
        self._unwatch()
        if self._consumer is not None:
            await self._consumer.aclose()
