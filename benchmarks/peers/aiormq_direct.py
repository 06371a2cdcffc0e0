"""The least that an AMQP call needs in Python: one publish each way through RabbitMQ's direct reply-to, no confirms."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from benchmarks.peers import Echo

_QUEUE = "bench-aiormq-echo"


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.queue_declare(_QUEUE, auto_delete=True)

    async def answer(message: DeliveredMessage) -> None:
        properties = message.header.properties
        await channel.basic_publish(
            message.body,
            routing_key=properties.reply_to or "",
            properties=Basic.Properties(correlation_id=properties.correlation_id),
        )

    await channel.basic_consume(_QUEUE, answer, no_ack=True)
    started()
    try:
        await asyncio.Event().wait()
    finally:
        await connection.close()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=False)
    waiting: dict[str, asyncio.Future[bytes]] = {}
    ids = itertools.count()

    async def answered(message: DeliveredMessage) -> None:
        future = waiting.pop(message.header.properties.correlation_id or "", None)
        if future is not None:
            future.set_result(message.body)

    await channel.basic_consume("amq.rabbitmq.reply-to", answered, no_ack=True)
    loop = asyncio.get_running_loop()

    async def echo(text: str, service: str) -> str:
        id = str(next(ids))
        future: asyncio.Future[bytes] = loop.create_future()
        waiting[id] = future
        await channel.basic_publish(
            text.encode(), routing_key=_QUEUE, properties=Basic.Properties(correlation_id=id, reply_to="amq.rabbitmq.reply-to")
        )
        return (await future).decode()

    try:
        yield echo
    finally:
        await connection.close()
