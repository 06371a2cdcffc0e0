"""Moving a message of a durable queue to its next place: later again, or among the dead letters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fabric.clock import Clock
from fabric.errors import FabricError, NoRoute
from fabric.transports import amqp_durable
from fabric.transports.amqp_delivery import Settled
from fabric.transports.amqp_frames import table
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_publisher import Publisher
from fabric.transports.base import QueueSpec

_log = logging.getLogger("fabric.transports.amqp")

_SECONDS = 5.0
_SHORTEST_DELAY = 0.001
_MOST_HEADER_BYTES = 120 * 1024


class Mover:
    """Stores a copy where it belongs next, confirmed, with its history."""

    def __init__(self, publisher: Publisher, clock: Clock, instance: str) -> None:
        self._publisher, self._clock, self._instance = publisher, clock, instance

    async def retry(self, link: Link, spec: QueueSpec, delivery: Settled, reason: str) -> bool:
        """To the delay that its attempt calls for, or to the dead letters. False: it could not be stored in time."""
        attempt = delivery.attempt
        if attempt >= spec.max_attempts:
            return await self.give_up(link, spec, delivery, reason, attempts=attempt)
        assert spec.name is not None
        delays = spec.retry_delays or (0.0,)
        delay = delays[min(attempt, len(delays)) - 1]
        if delay < _SHORTEST_DELAY:
            place, arguments = spec.name, amqp_durable.queue_arguments(spec)
        else:
            place, arguments = amqp_durable.delay_queue(spec.name, delay), amqp_durable.delay_arguments(spec.name, delay)
        past = self._past(delivery, reason, self._clock.time(), attempt)
        return await self._move(link, place, arguments, delivery, past.headers())

    async def give_up(self, link: Link, spec: QueueSpec, delivery: Settled, reason: str, *, attempts: int) -> bool:
        """To the dead letters, after as many ``attempts``. False: it could not be stored in time."""
        assert spec.name is not None
        now = self._clock.time()
        place = amqp_durable.dead_letter_queue(spec.name)
        headers = self._past(delivery, reason, now, attempts).death(reason, now)
        return await self._move(link, place, amqp_durable.dead_letter_arguments(), delivery, headers)

    async def put_back(self, link: Link, spec: QueueSpec, delivery: Settled) -> bool:
        """To the end of its own queue, by itself, as if this delivery had not been. False: it could not be stored in time."""
        assert spec.name is not None
        past = replace(delivery.carried, attempts=delivery.attempt - 1)
        return await self._move(link, spec.name, amqp_durable.queue_arguments(spec), delivery, past.headers())

    def _past(self, delivery: Settled, reason: str, now: float, attempts: int) -> amqp_durable.Carried:
        return delivery.carried.failed(attempts=attempts, reason=reason, at=now, instance=self._instance)

    async def _move(
        self, link: Link, place: str, arguments: Mapping[str, Any], delivery: Settled, headers: Mapping[str, Any]
    ) -> bool:
        try:
            async with asyncio.timeout(_SECONDS):
                try:
                    await self._store(place, delivery, headers)
                except NoRoute:
                    await _declare(link, place, dict(arguments))
                    await self._store(place, delivery, headers)
        except (FabricError, TimeoutError) as error:
            _log.warning("a message could not be moved to %r: %s", place, error)
            return False
        return True

    async def _store(self, place: str, delivery: Settled, headers: Mapping[str, Any]) -> None:
        await self._publisher.send(
            "",
            place,
            delivery.body,
            timeout=_SECONDS,
            priority=delivery.priority,
            content_type=delivery.content_type,
            headers=None,
            own_headers=_fitting(delivery.headers, headers),
            message_id=None,
            expires=None,
            mandatory=True,
            persistent=True,
        )


def _fitting(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Mapping[str, Any]:
    """Both, unless theirs leave no room for ours in the one frame that headers may take. They passed the broker before, so they
    are not measured by what we allow ourselves."""
    both = {**theirs, **ours}
    return both if len(table(both)) <= _MOST_HEADER_BYTES else ours


async def _declare(link: Link, name: str, arguments: dict[str, Any]) -> None:
    """On a channel of its own: a refusal kills the channel."""
    channel = await link.channel()
    try:
        await link.ask(
            lambda: channel.queue_declare(name, durable=True, arguments=arguments),
            doing=f"declaring the queue {name!r}",
            name=name,
        )
    finally:
        await link.close_channel(channel)
