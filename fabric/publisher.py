"""Events and broadcasts on their way out."""

from __future__ import annotations

from typing import Any

from fabric.config import Settings
from fabric.errors import ConfigurationError, TransportClosed
from fabric.identity import Identity
from fabric.ordered import ORDER_KEY
from fabric.transports.base import Transport
from fabric.transports.delays import check_delay
from fabric.transports.event_outbox import EventOutbox
from fabric.transports.topology import Topology
from fabric.values import plain
from fabric.wire import codec
from fabric.wire.message import MessageType, Priority, ServiceMessage

_LONGEST_KEY = 255


class Publisher:
    """Publishes in the name of one service and instance. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        settings: Settings,
        me: Identity,
    ) -> None:
        self._transport, self._topology, self._me = transport, topology, me
        self._limits = codec.Limits(message_bytes=settings.max_message_bytes)
        self._outbox = EventOutbox(transport, topology.events, max_batch_bytes=settings.max_batch_bytes)

    async def publish(
        self,
        topic: str,
        payload: Any,
        *,
        priority: Priority,
        timeout: float,
        headers: dict[str, Any] | None,
        id: str | None,
        delay: float | None = None,
        key: str | None = None,
    ) -> str:
        """See ``Hub.publish``."""
        try:
            check_delay(delay, expires=None, mandatory=False)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if key is not None:
            if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY:
                raise ConfigurationError(f"a key is a text of 1 to {_LONGEST_KEY} characters, not {key!r:.40}")
            headers = {**(headers or {}), ORDER_KEY: key}
        id = id or self._me.ids.next()
        body = self._encoded(MessageType.EVENT, topic, payload, priority, headers, id)
        if delay is None and key is None:
            await self._outbox.send(topic, body, id=id, priority=priority, timeout=timeout)
            return id
        # With a key, alone: of a body that was half done when its consumer was lost, what was done comes again, out of order.
        await self._transport.send(
            self._topology.events, topic, body, timeout=timeout, priority=priority, message_id=id, persistent=True, delay=delay
        )
        return id

    def broadcast(self, topic: str, payload: Any, *, priority: Priority, headers: dict[str, Any] | None) -> bool:
        """See ``Hub.broadcast``."""
        body = self._encoded(MessageType.BROADCAST, topic, payload, priority, headers, self._me.ids.next())
        try:
            return self._transport.post(self._topology.broadcast, topic, body, priority=priority)
        except TransportClosed:
            return False

    def _encoded(
        self, type: MessageType, topic: str, payload: Any, priority: Priority, headers: dict[str, Any] | None, id: str
    ) -> bytes:
        me = self._me
        message = ServiceMessage(id, type, me.service, me.instance, topic, topic, plain(payload), priority, headers=headers)
        return codec.encode(message, self._limits)
