"""Durable events, the two that are compared: each publisher awaits the broker's confirm, each subscriber acknowledges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from fabric import Hub, Service, on_event
from fabric.coordination.agent import Agent

PREFETCH = 1000
TOPIC = "bench.happened"

Publish = Callable[[str], Awaitable[object]]
Handled = Callable[[], None]


@asynccontextmanager
async def fabric_subscriber(url: str, handled: Handled) -> AsyncIterator[None]:
    class Subscriber(Service):
        name = "bench-subscriber"

        @on_event(TOPIC, concurrency=PREFETCH)
        async def happened(self, event: dict[str, str]) -> None:
            handled()

    async with Hub.connect(Subscriber.name, url=url) as hub:
        agent = Agent(hub, Subscriber())
        await agent.open(managed=False)
        try:
            yield
        finally:
            await agent.aclose()


@asynccontextmanager
async def fabric_publisher(url: str) -> AsyncIterator[Publish]:
    async with Hub.connect("bench-publisher", url=url) as hub:
        yield lambda text: hub.publish(TOPIC, {"text": text})


@asynccontextmanager
async def aio_pika_subscriber(url: str, handled: Handled) -> AsyncIterator[None]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        exchange = await channel.declare_exchange("bench-aio-pika-events", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue("bench-aio-pika-events", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(exchange, TOPIC)

        async def happened(message: AbstractIncomingMessage) -> None:
            await message.ack()
            handled()

        await queue.consume(happened)
        yield


@asynccontextmanager
async def aio_pika_publisher(url: str) -> AsyncIterator[Publish]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.declare_exchange("bench-aio-pika-events", aio_pika.ExchangeType.TOPIC, durable=True)

        async def publish(text: str) -> None:
            message = aio_pika.Message(text.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await exchange.publish(message, TOPIC, mandatory=True)

        yield publish


SUBSCRIBERS: dict[str, Callable[[str, Handled], AbstractAsyncContextManager[None]]] = {
    "fabric": fabric_subscriber,
    "aio_pika": aio_pika_subscriber,
}
PUBLISHERS: dict[str, Callable[[str], AbstractAsyncContextManager[Publish]]] = {
    "fabric": fabric_publisher,
    "aio_pika": aio_pika_publisher,
}
