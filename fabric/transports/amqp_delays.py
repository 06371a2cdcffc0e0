"""Delayed messages on RabbitMQ without a plugin: a queue for each length of delay, whose messages expire to where they go.

Nothing of it has ``x-expires``: declaring a quorum queue again does not put its expiry off (seen on 4.3), and an expired
queue takes along what it holds. The steps bound the number of queues instead.

Dead-lettering at least once keeps what no queue takes, and 32 such messages would hold up all others of their step. So each
goes to one more queue, the sink, by a second key in ``BCC``, which RabbitMQ follows and takes off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from aiormq.channel import Channel

from fabric.errors import ConnectionLost, NoRoute, NotSent
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_publisher import Publisher
from fabric.transports.base import ExchangeKind
from fabric.transports.topology import Topology
from fabric.wire.message import Priority


def hold_arguments(milliseconds: int, target: str) -> dict[str, Any]:
    """Of the queue that holds messages so long and passes them on to the exchange ``target``, each with the key it has."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": milliseconds,
        "x-dead-letter-exchange": target,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def sink_arguments() -> dict[str, Any]:
    """Of the queue that everything delayed goes to as well. It keeps one message, for nobody."""
    return {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "drop-head"}


class Delays:
    """Sends what is to arrive later."""

    def __init__(self, publisher: Publisher, topology: Topology) -> None:
        self._publisher, self._topology = publisher, topology
        self._declared: WeakKeyDictionary[Link, set[int]] = WeakKeyDictionary()

    async def send(
        self,
        connected: Callable[[float], Awaitable[Link]],
        key: str,
        body: bytes,
        *,
        milliseconds: int,
        timeout: float,
        priority: Priority,
        content_type: str,
        headers: Mapping[str, Any] | None,
        message_id: str | None,
    ) -> None:
        """As ``Transport.send``, to the exchange of events.

        Args:
            connected: waits so many seconds for a link to declare on.
            milliseconds: a step of ``delays.step``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        place = self._topology.delayed(milliseconds)
        for last in (False, True):
            await self._prepare(connected, milliseconds, deadline)
            try:
                await self._publisher.send(
                    place,
                    key,
                    body,
                    timeout=deadline - loop.time(),
                    priority=priority,
                    content_type=content_type,
                    headers=headers,
                    message_id=message_id,
                    expires=None,
                    mandatory=True,
                    persistent=True,
                    own_headers={"BCC": [self._topology.delayed_sink_key]},
                )
            except NoRoute:
                # Somebody deleted the queue: the broker never took the message.
                self._declared.clear()
                if last:
                    raise NotSent(f"the queue {place!r} is deleted again and again") from None
            else:
                return

    async def _prepare(self, connected: Callable[[float], Awaitable[Link]], milliseconds: int, deadline: float) -> None:
        """Everything on the way, declared once a link."""
        try:
            async with asyncio.timeout_at(deadline):
                link = await connected(deadline - asyncio.get_running_loop().time())
                known = self._declared.setdefault(link, set())
                if milliseconds not in known:
                    await self._declare(link, milliseconds)
                    known.add(milliseconds)
        except (TimeoutError, ConnectionLost) as error:
            why = str(error) or "the broker did not answer in time"
            raise NotSent(f"the queue of the delay could not be declared: {why}") from error

    async def _declare(self, link: Link, milliseconds: int) -> None:
        """On a channel of its own: a refusal kills the channel."""
        topology = self._topology
        place, sink = topology.delayed(milliseconds), topology.delayed_sink
        channel = await link.channel()
        try:
            await _queue(link, channel, sink, sink_arguments(), topology.events, topology.delayed_sink_key)
            await link.ask(
                lambda: channel.exchange_declare(place, exchange_type=ExchangeKind.FANOUT.value, durable=True),
                doing=f"declaring the exchange {place!r}",
                name=place,
            )
            await _queue(link, channel, place, hold_arguments(milliseconds, topology.events), place, "")
        finally:
            await link.close_channel(channel)


async def _queue(link: Link, channel: Channel, name: str, arguments: dict[str, Any], source: str, key: str) -> None:
    await link.ask(
        lambda: channel.queue_declare(name, durable=True, arguments=arguments), doing=f"declaring the queue {name!r}", name=name
    )
    await link.ask(lambda: channel.queue_bind(name, source, key), doing=f"binding {name!r} to {source!r}", name=name)
