"""RabbitMQ for the contract suite: one namespace a test, and a proxy before each transport."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import aiormq
import pytest
from pamqp import commands

from fabric.transports.amqp import AmqpTransport
from fabric.transports.amqp_consumer import Subscription
from fabric.transports.amqp_durable import dead_letter_queue, delay_queue
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.backoff import Backoff
from fabric.transports.base import QueueSpec, Receiver, Transport
from fabric.transports.delays import MOST_DELAY, step
from fabric.transports.topology import Topology
from tests.brokers.node import BrokerNode, clear_memory_alarm, raise_memory_alarm, restart
from tests.brokers.proxy import Proxy
from tests.contract.backends import Ability

_NOT_OURS = "the broker of FABRIC_TEST_BROKER_URL is not ours to harm"


class _Recorded(AmqpTransport):
    """Knows which durable queues it made, so that nothing is left on somebody else's broker."""

    def __init__(self, settings: AmqpSettings, topology: Topology, made: set[str]) -> None:
        super().__init__(settings, topology)
        self._made = made

    async def send(
        self, exchange: str, key: str, body: bytes, *, timeout: float, delay: float | None = None, **options: Any
    ) -> None:
        if isinstance(delay, float) and 0 < delay <= MOST_DELAY:
            self._made |= {self._topology.delayed(step(delay)), self._topology.delayed_sink}
        await super().send(exchange, key, body, timeout=timeout, delay=delay, **options)

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> Subscription:
        if queue.name is not None and queue.durable:
            self._made |= {queue.name, dead_letter_queue(queue.name)}
            self._made |= {delay_queue(queue.name, seconds) for seconds in queue.retry_delays}
        return await super().consume(queue, receiver, timeout=timeout)


class AmqpBackend:
    name = "amqp"

    def __init__(self, node: BrokerNode, stack: AsyncExitStack) -> None:
        self._node, self._stack = node, stack
        self.topology = Topology(f"test-{uuid.uuid4().hex[:12]}")
        self._proxies: dict[Transport, Proxy] = {}
        self._made: set[str] = set()
        self._down = self._alarmed = False

    @property
    def missing(self) -> Mapping[Ability, str]:
        lacks = {Ability.DURABLE_PRIORITY: "quorum queues have no priorities before 4.0, and only two until 4.3"}
        if not self._node.ours:
            lacks |= dict.fromkeys((Ability.BLOCK, Ability.RESTART, Ability.DELETE_QUEUE), _NOT_OURS)
        return lacks

    async def transport(self, *, connect: bool = True, max_body: int | None = None) -> AmqpTransport:
        limits = {} if max_body is None else {"max_body": max_body}
        return await self.make(
            connect=connect, backoff=Backoff(first=0.2, most=1.0), ping_interval=0.5, ping_timeout=1.0, **limits
        )

    async def make(self, *, connect: bool = True, **settings: Any) -> AmqpTransport:
        """One with settings of the test's own."""
        proxy = await self._stack.enter_async_context(Proxy(self._node.url))
        if self._down:
            await proxy.refuse()
        transport = _Recorded(AmqpSettings.from_url(proxy.url, **settings), self.topology, self._made)
        self._proxies[transport] = proxy
        self._stack.push_async_callback(transport.aclose)
        if connect:
            await transport.connect(timeout=10)
        return transport

    def proxy(self, transport: Transport) -> Proxy:
        return self._proxies[transport]

    async def cut(self, transport: Transport) -> None:
        self._proxies[transport].cut()

    async def pause(self, transport: Transport) -> None:
        self._proxies[transport].pause()

    async def resume(self, transport: Transport) -> None:
        self._proxies[transport].resume()

    async def block(self) -> None:
        self._alarmed = True
        await asyncio.to_thread(raise_memory_alarm, self._node)

    async def unblock(self) -> None:
        await asyncio.to_thread(clear_memory_alarm, self._node)
        self._alarmed = False

    async def delete_queue(self, name: str) -> None:
        """With the broker's own hands: nobody else may delete an exclusive queue."""
        find = f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{name}">>))'
        delete = 'rabbit_amqqueue:delete(Q, false, false, <<"test">>)'
        await asyncio.to_thread(self._node.ctl, "eval", f"{find}, {delete}.")

    async def restart(self) -> None:
        await asyncio.to_thread(restart, self._node)

    async def go_down(self) -> None:
        self._down = True
        for proxy in self._proxies.values():
            await proxy.refuse()

    async def come_up(self) -> None:
        self._down = False
        for proxy in self._proxies.values():
            await proxy.allow()

    async def publish_foreign(self, exchange: str, key: str, body: bytes, *, headers: Mapping[str, Any]) -> None:
        async with aiormq.connect(self._node.url) as connection:
            channel = await connection.channel()
            properties = commands.Basic.Properties(headers=dict(headers))
            await channel.basic_publish(body, exchange=exchange, routing_key=key, properties=properties)

    async def heal(self) -> None:
        """Leave the broker as it was."""
        if self._alarmed:
            await self.unblock()
        async with aiormq.connect(self._node.url) as connection:
            channel = await connection.channel()
            for queue in self._made:
                await channel.queue_delete(queue)
                if queue.startswith(self.topology.delayed(0)[:-1]):
                    await channel.exchange_delete(queue)
            for exchange in self.topology.exchanges:
                await channel.exchange_delete(exchange.name)


@asynccontextmanager
async def open_on(node: BrokerNode) -> AsyncIterator[AmqpBackend]:
    async with AsyncExitStack() as stack:
        backend = AmqpBackend(node, stack)
        stack.push_async_callback(backend.heal)
        yield backend


def open_backend(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[AmqpBackend]:
    return open_on(request.getfixturevalue("broker"))
