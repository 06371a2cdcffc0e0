"""One message as it came from RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fabric.transports import amqp_durable, amqp_frames
from fabric.transports.headers import without_reserved
from fabric.wire.message import Priority

_PRIORITIES = tuple(Priority)


class Source(Protocol):
    """The channel that a delivery came on: it alone may settle it, and only while it lives."""

    @property
    def ours(self) -> str | None: ...

    def ack(self, delivery: Settled) -> None: ...

    async def retry(self, delivery: Settled, reason: str) -> None: ...

    async def reject(self, delivery: Settled, reason: str) -> None: ...


class Settled(Protocol):
    """A message as its channel settles it: a whole body, or a part of one."""

    settled: bool
    """By whoever came first."""

    @property
    def body(self) -> bytes: ...
    @property
    def tag(self) -> int:
        """Of the body that it came in."""
        ...

    @property
    def content_type(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def attempt(self) -> int: ...
    @property
    def carried(self) -> amqp_durable.Carried: ...

    def settle(self, *, stored: bool) -> bool | None:
        """It needs nothing more of us, or could not be stored where it belongs next.

        Returns:
            Whether the body may be acknowledged or must be given back; None while more of it is open.
        """
        ...


class AmqpDelivery:
    """See ``Delivery``. What nobody asks for is not read."""

    __slots__ = ("_carried", "_method", "body", "properties", "redelivered", "settled", "source", "tag")

    def __init__(
        self, source: Source, tag: int, redelivered: bool, method: bytes, properties: amqp_frames.Properties, body: bytes
    ) -> None:
        """``method``: the payload of the frame that said all this."""
        self.source, self.tag, self.redelivered, self.properties, self.body = source, tag, redelivered, properties, body
        self.settled = False
        self._method = method
        self._carried: amqp_durable.Carried | None = None

    @property
    def carried(self) -> amqp_durable.Carried:
        if self._carried is None:
            exchange, key = amqp_frames.read_place(self._method)
            self._carried = amqp_durable.carried(self.properties, exchange, key, ours=self.source.ours)
        return self._carried

    @property
    def exchange(self) -> str:
        return self.carried.exchange

    @property
    def key(self) -> str:
        return self.carried.key

    @property
    def content_type(self) -> str:
        return self.properties.content_type

    @property
    def priority(self) -> Priority:
        return _PRIORITIES[min(self.properties.priority, len(_PRIORITIES) - 1)]

    @property
    def message_id(self) -> str | None:
        return self.carried.message_id

    @property
    def headers(self) -> Mapping[str, Any]:
        return without_reserved(self.properties.headers)

    @property
    def attempt(self) -> int:
        return self.carried.attempts + 1 + self._lost_deliveries

    @property
    def _lost_deliveries(self) -> int:
        """Deliveries of this copy that nobody settled. The header is the broker's only when it delivers again."""
        if not self.redelivered:
            return 0
        count = self.properties.headers.get("x-delivery-count")
        return count if type(count) is int and count > 0 else 1

    @property
    def user_id(self) -> str | None:
        # without headers it carries nothing of a past
        return self.carried.user_id if self.properties.headers else self.properties.user_id

    def settle(self, *, stored: bool) -> bool | None:
        return stored

    def ack(self) -> None:
        self.source.ack(self)

    async def retry(self, reason: str) -> None:
        await self.source.retry(self, reason)

    async def reject(self, reason: str) -> None:
        await self.source.reject(self, reason)
