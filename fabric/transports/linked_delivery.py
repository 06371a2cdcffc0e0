"""A delivery of the memory and embedded transports."""

from __future__ import annotations

import asyncio

from fabric.errors import FabricError
from fabric.transports.backlog import Published
from fabric.transports.link import Link
from fabric.transports.memory_session import Verb

_LIMIT = 5.0


class LinkedDelivery:
    """See ``Delivery``. Bound to the link that it came on, so that it can't settle anything on a later one."""

    __slots__ = (
        "_link",
        "_tag",
        "attempt",
        "body",
        "content_type",
        "exchange",
        "headers",
        "key",
        "message_id",
        "priority",
        "user_id",
    )

    def __init__(self, link: Link, tag: int, attempt: int, message: Published) -> None:
        self._link, self._tag = link, tag
        self.attempt = attempt
        (
            self.exchange,
            self.key,
            self.body,
            self.content_type,
            self.priority,
            self.message_id,
            self.headers,
            self.user_id,
            _,
        ) = message

    @property
    def redelivered(self) -> bool:
        return self.attempt > 1

    def ack(self) -> None:
        if tag := self._take_tag():
            self._link.ack(tag)

    def release(self) -> None:
        """Give it back: no receiver has it."""
        if tag := self._take_tag():
            self._link.release(tag)

    async def retry(self, reason: str) -> None:
        await self._settle(Verb.RETRY, reason)

    async def reject(self, reason: str) -> None:
        await self._settle(Verb.REJECT, reason)

    async def _settle(self, verb: Verb, reason: str) -> None:
        if tag := self._take_tag():
            try:
                async with asyncio.timeout(_LIMIT):
                    await self._link.ask(verb, tag, reason)
            except (FabricError, TimeoutError):
                # The broker still has it, and delivers it again when it has noticed that the link is gone.
                pass

    def _take_tag(self) -> int:
        """The tag, once, and only while its link lives; 0 otherwise."""
        tag, self._tag = self._tag, 0
        return 0 if self._link.closed else tag
