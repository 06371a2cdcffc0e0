"""The messages of one stored body, each settled by itself.

The broker knows only the whole: it is acknowledged when none of its parts is open any more, and given back when one of them
could not be stored at its next place. What has to come again alone is stored as a message of its own first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fabric.errors import InvalidMessage
from fabric.transports import amqp_durable
from fabric.transports.amqp_delivery import AmqpDelivery, Source
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority

SUSPECT = 3
"""The delivery from which on the parts of a body go separate ways: one of them may have killed who had them."""


class Whole:
    """A body with several messages, as it was delivered.

    Attributes:
        done: numbers of the parts that were acknowledged.
        parts: those that are to be delivered.
    """

    def __init__(self, delivery: AmqpDelivery, bodies: list[bytes], done: set[int]) -> None:
        self.delivery, self.done = delivery, done
        self.attempt, self.user_id = delivery.attempt, delivery.user_id
        self.parts = [AmqpPart(self, number, body) for number, body in enumerate(bodies) if number not in done]
        self._open = len(self.parts)
        self._stored = True

    @property
    def identity(self) -> bytes:
        return hashlib.blake2b(self.delivery.body, digest_size=16).digest()

    def settle(self, number: int, *, stored: bool) -> bool | None:
        """One part needs nothing more of us, or could not be stored.

        Returns:
            Whether the whole may be acknowledged or must be given back; None while other parts are open.
        """
        if stored:
            self.done.add(number)
        else:
            self._stored = False
        self._open -= 1
        return None if self._open else self._stored


class AmqpPart:
    """See ``Delivery``. What it does not know itself is that of the whole."""

    __slots__ = ("body", "number", "settled", "whole")

    content_type = MSGPACK
    message_id = None

    def __init__(self, whole: Whole, number: int, body: bytes) -> None:
        self.whole, self.number, self.body = whole, number, body
        self.settled = False

    @property
    def source(self) -> Source:
        return self.whole.delivery.source

    @property
    def tag(self) -> int:
        return self.whole.delivery.tag

    @property
    def carried(self) -> amqp_durable.Carried:
        return self.whole.delivery.carried

    @property
    def exchange(self) -> str:
        return self.whole.delivery.exchange

    @property
    def key(self) -> str:
        return self.whole.delivery.key

    @property
    def priority(self) -> Priority:
        return self.whole.delivery.priority

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.whole.delivery.headers

    @property
    def redelivered(self) -> bool:
        return self.whole.delivery.redelivered

    @property
    def attempt(self) -> int:
        return self.whole.attempt

    @property
    def user_id(self) -> str | None:
        return self.whole.user_id

    def settle(self, *, stored: bool) -> bool | None:
        """As ``Whole.settle``."""
        return self.whole.settle(self.number, stored=stored)

    def ack(self) -> None:
        self.source.ack(self)

    async def retry(self, reason: str) -> None:
        await self.source.retry(self, reason)

    async def reject(self, reason: str) -> None:
        await self.source.reject(self, reason)


class Remembered:
    """What was acknowledged of bodies that were still open when their link was lost: it need not be done twice here.

    Args:
        most: bodies to remember; the oldest go first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._done: dict[bytes, set[int]] = {}

    def keep(self, whole: Whole) -> None:
        """Also what is acknowledged of it from now on, though nobody can tell the broker any more."""
        self._done.pop(whole.identity, None)
        self._done[whole.identity] = whole.done
        while len(self._done) > self._most:
            del self._done[next(iter(self._done))]

    def split(self, delivery: AmqpDelivery) -> Whole | None:
        """A delivery taken apart, without what was done before. None: it is no batch that can be read.

        A batch of which nothing is left is one too.
        """
        try:
            bodies = batch.split_stored(delivery.body)
        except InvalidMessage:
            return None
        whole = Whole(delivery, bodies, set())
        if delivery.redelivered and (done := self._done.pop(whole.identity, None)) is not None:
            whole = Whole(delivery, bodies, done)
        return whole


Single = AmqpDelivery | AmqpPart
"""What a receiver gets: one message, however it was stored."""
