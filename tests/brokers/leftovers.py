"""Removing what a test's namespace left on a broker that others use too."""

from __future__ import annotations

from collections.abc import Iterable

import aiormq

from fabric.transports.amqp_durable import dead_letter_queue, delay_queue
from fabric.transports.topology import Topology


async def remove(
    url: str, topology: Topology, services: Iterable[str], *, delays: Iterable[float] = (), held: Iterable[int] = ()
) -> None:
    """The exchanges of a namespace, the queues of the default groups of ``services`` with their ``delays``, the journal, and what
    holds events back for ``held`` milliseconds."""
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        for service in services:
            spec = topology.event_group(service, (), prefetch=1, max_attempts=1, retry_delays=(1.0,))
            assert spec.name is not None
            await channel.queue_delete(spec.name)
            await channel.queue_delete(dead_letter_queue(spec.name))
            for seconds in delays:
                await channel.queue_delete(delay_queue(spec.name, seconds))
        for milliseconds in held:
            await channel.queue_delete(topology.delayed(milliseconds))
            await channel.exchange_delete(topology.delayed(milliseconds))
        await channel.queue_delete(topology.delayed_sink)
        await channel.queue_delete(topology.journal)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)
