"""The messages in what a transport delivers."""

from __future__ import annotations

from fabric.errors import InvalidMessage
from fabric.transports.base import Delivery
from fabric.wire import batch, codec
from fabric.wire.message import ServiceMessage


def received(delivery: Delivery, limits: codec.Limits) -> list[ServiceMessage | InvalidMessage]:
    """All of them in order; in place of one that is damaged, the error."""
    body, content_type = delivery.body, delivery.content_type
    if content_type != batch.BATCH:
        return codec.decode_all((body,), content_type, limits)
    try:
        return codec.decode_all(batch.split(body, content_type), codec.MSGPACK, limits)
    except InvalidMessage as error:
        return [error]
