"""Looking at dead letters, putting one back, removing one.

They are taken one by one on a channel of their own and given back by closing it, so that nothing is lost when the looker dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from pamqp import commands

from fabric.errors import ConnectionLost
from fabric.transports import amqp_durable
from fabric.transports.amqp_frames import Properties, plain
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_publisher import Publisher
from fabric.transports.base import DeadLetter

_MOST_SEEN = 10_000


class _Taken:
    """Some dead letters, held by one channel."""

    def __init__(self, link: Link, channel: Channel, queue: str, ours: str | None) -> None:
        self._link, self._channel, self._queue, self._ours = link, channel, queue, ours
        self._tag = 0

    async def next(self) -> amqp_durable.Dead | None:
        """The next one in the order of the queue; None at its end."""
        name = amqp_durable.dead_letter_queue(self._queue)
        message = await self._link.ask(lambda: self._channel.basic_get(name), doing=f"reading {name!r}")
        if not isinstance(message.delivery, commands.Basic.GetOk):
            return None
        self._tag = message.delivery.delivery_tag or 0
        place = message.exchange or "", message.routing_key or ""
        return amqp_durable.read_dead(self._queue, properties_of(message), *place, message.body, ours=self._ours)

    async def oldest(self, limit: int) -> list[DeadLetter]:
        """In the order of dying, which looking at them does not change."""
        found: list[DeadLetter] = []
        for _ in range(_MOST_SEEN):
            dead = await self.next()
            if dead is None:
                break
            found.append(dead.letter)
            if len(found) > 2 * limit:
                found = _oldest(found, limit)
        return _oldest(found, limit)

    async def find(self, id: str) -> amqp_durable.Dead | None:
        for _ in range(_MOST_SEEN):
            dead = await self.next()
            if dead is None or dead.letter.id == id:
                return dead
        return None

    async def remove_last(self) -> None:
        """The one that came last. It is gone when the channel is closed."""
        await self._link.ask(lambda: self._channel.basic_ack(self._tag, wait=False), doing="removing a dead letter")


def _oldest(letters: list[DeadLetter], limit: int) -> list[DeadLetter]:
    return sorted(letters, key=lambda letter: letter.died_at)[:limit]


@asynccontextmanager
async def _take(link: Link, queue: str, ours: str | None) -> AsyncIterator[_Taken | None]:
    """None: there is no such queue."""
    name = amqp_durable.dead_letter_queue(queue)
    probe = await link.channel()
    try:
        await link.ask(lambda: probe.queue_declare(name, passive=True), doing=f"looking for {name!r}")
    except ConnectionLost:
        if link.lost.done():
            raise
        yield None
        return
    try:
        yield _Taken(link, probe, queue, ours)
    finally:
        await link.close_channel(probe)


def properties_of(message: DeliveredMessage) -> Properties:
    given = message.header.properties
    return Properties(
        content_type=given.content_type or "",
        headers=plain(given.headers or {}),
        priority=given.priority or 0,
        message_id=given.message_id,
        user_id=given.user_id,
    )


class DeadLetters:
    """One at a time: two lookers would hide letters from each other."""

    def __init__(self, publisher: Publisher, ours: str | None) -> None:
        self._publisher, self._ours = publisher, ours
        self._busy = asyncio.Lock()

    async def list(self, link: Link, queue: str, *, limit: int) -> list[DeadLetter]:
        async with self._busy, _take(link, queue, self._ours) as taken:
            return await taken.oldest(limit) if taken is not None else []

    async def replay(self, link: Link, queue: str, id: str, *, timeout: float) -> bool:
        async with self._busy, _take(link, queue, self._ours) as taken:
            dead = await taken.find(id) if taken is not None else None
            if taken is None or dead is None:
                return False
            await self._put_back(dead, timeout)
            await taken.remove_last()
        return True

    async def discard(self, link: Link, queue: str, id: str) -> bool:
        async with self._busy, _take(link, queue, self._ours) as taken:
            if taken is None or await taken.find(id) is None:
                return False
            await taken.remove_last()
        return True

    async def _put_back(self, dead: amqp_durable.Dead, timeout: float) -> None:
        letter = dead.letter
        await self._publisher.send(
            "",
            letter.queue,
            letter.body,
            timeout=timeout,
            priority=dead.priority,
            content_type=letter.content_type,
            headers=letter.headers,
            own_headers=dead.replayed(),
            message_id=None,
            expires=None,
            mandatory=True,
            persistent=True,
        )
