"""A group of events that is ordered from now on, or not any more, has another queue, and its former one would go on filling up.

So it is unbound, what it holds moves over, and it is deleted, as soon as no instance of the version before consumes it any
more. Until then both queues get every event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, TypeVar

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel

from fabric.clock import Clock
from fabric.errors import ConfigurationError, ConnectionLost, FabricError, TransportClosed
from fabric.transports import amqp_durable
from fabric.transports.amqp_dead_letters import properties_of
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_publisher import Publisher
from fabric.transports.base import QueueSpec
from fabric.transports.headers import without_reserved
from fabric.transports.topology import former
from fabric.wire.message import Priority

T = TypeVar("T")

_log = logging.getLogger("fabric.transports.amqp")

_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_SECONDS = 10.0
_QUIET_SECONDS = 1.0
"""In which nothing more comes of a queue that was emptied."""
_PREFETCH = 50


class Successions:
    """Of one transport."""

    def __init__(self, publisher: Publisher, clock: Clock, ours: str | None) -> None:
        self._publisher, self._clock, self._ours = publisher, clock, ours

    async def take_over(self, spec: QueueSpec, connected: Callable[[float], Awaitable[Link]], wanted: Callable[[], bool]) -> None:
        """Look for a former queue, and see to it until it is gone.

        Args:
            spec: of the queue that is consumed now.
            connected: waits so many seconds for a link.
            wanted: whether it is still consumed.
        """
        assert spec.name is not None
        old, pause = former(spec.name), _SHORTEST_PAUSE
        while wanted():
            try:
                if await self._empty(await connected(_LONGEST_PAUSE), spec, old):
                    return
            except TransportClosed:
                return
            except ConfigurationError as error:
                _log.warning("whether the queue %r is left over from before can't be seen: %s", old, error)
                return
            except FabricError as error:
                _log.warning("the queue %r, which %r has succeeded, can't be taken over now: %s", old, spec.name, error)
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _empty(self, link: Link, spec: QueueSpec, old: str) -> bool:
        """Whether it is gone."""
        there = await _count(link, old)
        if there is None:
            return True
        if there.consumers:
            return False
        channel = await link.channel()
        try:
            for key in spec.keys:
                await _ask(link, old, partial(channel.queue_unbind, old, spec.exchange, key))
            moved = await self._move_all(link, channel, spec, old)
        finally:
            await link.close_channel(channel)
        if moved:
            _log.info("%d events moved from %r to %r", moved, old, spec.name)
        delays = [amqp_durable.delay_queue(old, seconds) for seconds in spec.retry_delays]
        counts = [await _count(link, queue) for queue in (old, *delays)]
        if any(count is not None and (count.messages or count.consumers) for count in counts):
            return False
        for queue in (*delays, old):
            await self._delete(link, queue)
        _log.info("the queue %r is gone: %r has succeeded it", old, spec.name)
        return True

    async def _move_all(self, link: Link, channel: Channel, spec: QueueSpec, old: str) -> int:
        """Consumed, because a queue with a single active consumer allows no get. Returns how many."""
        came: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
        await _ask(link, old, partial(channel.basic_qos, prefetch_count=_PREFETCH))
        await _ask(link, old, partial(channel.basic_consume, old, came.put))
        moved = 0
        while True:
            try:
                async with asyncio.timeout(_QUIET_SECONDS):
                    message = await came.get()
            except TimeoutError:
                return moved
            await self._move(message, spec)
            await _ask(link, old, partial(channel.basic_ack, message.delivery_tag or 0, wait=False))
            moved += 1

    async def _move(self, message: DeliveredMessage, spec: QueueSpec) -> None:
        """Stored at its new place before it is taken from the old one: doubled at worst."""
        properties = properties_of(message)
        past = amqp_durable.carried(properties, message.exchange or "", message.routing_key or "", ours=self._ours)
        assert spec.name is not None
        await self._publisher.send(
            "",
            spec.name,
            bytes(message.body),
            timeout=_SECONDS,
            priority=Priority(min(properties.priority, Priority.CRITICAL)),
            content_type=properties.content_type,
            headers=None,
            own_headers={**without_reserved(properties.headers), **past.headers()},
            message_id=None,
            expires=None,
            mandatory=True,
            persistent=True,
        )

    async def _delete(self, link: Link, queue: str) -> None:
        channel = await link.channel()
        try:
            await _ask(link, queue, lambda: channel.queue_delete(queue))
        finally:
            await link.close_channel(channel)


class _Count(NamedTuple):
    messages: int
    consumers: int


async def _ask(link: Link, queue: str, question: Callable[[], Awaitable[T]]) -> T:
    return await link.ask(question, doing=f"emptying the queue {queue!r}", name=queue)


async def _count(link: Link, queue: str) -> _Count | None:
    """None: there is no such queue."""
    channel = await link.channel()
    try:
        declared = await link.ask(lambda: channel.queue_declare(queue, passive=True), doing=f"looking for {queue!r}")
    except ConnectionLost:
        if link.lost.done():
            raise
        return None
    finally:
        await link.close_channel(channel)
    return _Count(declared.message_count or 0, declared.consumer_count or 0)
