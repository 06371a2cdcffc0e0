"""A peer on the bus that does exactly what a test tells it to, and nothing of its own accord but say who it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from fabric.clock import SystemClock
from fabric.health import Health
from fabric.routing.instance import Instance, InstanceState
from fabric.transports.base import Delivery, LinkEvent, LinkState, Transport
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology, up_service, who_service
from fabric.wire import batch, codec
from fabric.wire.message import MessageIds, MessageType, Priority, ServiceMessage

LIMIT = 5.0
NAMESPACE = "fabric"


class Puppet:
    """One instance of ``service`` with an inbox that nobody serves, and an address that it can ask others from.

    Attributes:
        instance: what it announces, and answers when it is asked who is there.
        inbox: what came and was not taken with ``next``.
    """

    def __init__(self, network: MemoryNetwork, service: str, id: str, **facts: Any) -> None:
        self.transport: Transport = MemoryTransport(network, Topology(NAMESPACE))
        self.topology = Topology(NAMESPACE)
        self.ids, self.clock = MessageIds(), SystemClock()
        self.address = f"puppet.{id}"
        fields: dict[str, Any] = {"incarnation": 1, "state": InstanceState.RUNNING, "health": Health.ok()} | facts
        self.instance = Instance(service=service, id=id, **fields)
        self.inbox: asyncio.Queue[ServiceMessage] = asyncio.Queue()
        self.silent = False

    def _back(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and event.epoch > 1 and not self.silent:
            self.announce()

    async def __aenter__(self) -> Self:
        self.transport.watch(self._back)
        await self.transport.connect(timeout=LIMIT)
        await self.transport.consume(self.topology.requests(self.instance.id), self._receive, timeout=LIMIT)
        await self.transport.consume(self.topology.replies(self.address), self._receive, timeout=LIMIT)
        question = self.topology.discoveries(who_service(self.instance.service))
        await self.transport.consume(question, self._asked, timeout=LIMIT)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.transport.aclose()

    def announce(self, **changes: Any) -> None:
        """Say who it is, with ``changes`` from now on."""
        self.instance = replace(self.instance, sequence=self.instance.sequence + 1, **changes)
        key = up_service(self.instance.service)
        self.transport.post(self.topology.discovery, key, self._announcement(), priority=Priority.CRITICAL)

    async def next(self, type: MessageType = MessageType.REQUEST) -> ServiceMessage:
        """The next message of that type; others are passed over. Fails when none comes."""
        async with asyncio.timeout(LIMIT):
            while True:
                message = await self.inbox.get()
                if message.type is type:
                    return message

    def has(self, type: MessageType) -> bool:
        """Whether one of that type has come and was not taken."""
        return any(message.type is type for message in self.inbox._queue)  # type: ignore[attr-defined]

    def answer(self, request: ServiceMessage, payload: Any = None, *, error: dict[str, Any] | None = None) -> None:
        self.say(request, MessageType.RESPONSE, payload, error)

    def say(self, request: ServiceMessage, type: MessageType, payload: Any = None, error: dict[str, Any] | None = None) -> None:
        """Send a message of any type to whoever sent ``request``."""
        assert request.reply_to is not None
        message = ServiceMessage(
            self.ids.next(),
            type,
            self.instance.service,
            self.instance.id,
            request.source,
            request.method,
            payload,
            request.priority,
            request.id,
            error=error,
        )
        self.transport.post(self.topology.rpc, request.reply_to, codec.encode(message), priority=request.priority)

    def request(self, method: str, payload: Any = None, *, within: float = LIMIT, **fields: Any) -> ServiceMessage:
        """A request as another hub would make it; ``fields`` override."""
        message = ServiceMessage(
            self.ids.next(),
            MessageType.REQUEST,
            self.instance.service,
            self.address,
            "",
            method,
            payload,
            deadline=self.clock.time() + within,
            reply_to=self.address,
        )
        return message._replace(**fields)

    async def send(self, to: str, *messages: ServiceMessage) -> None:
        """Put them into an instance's inbox, together in one body if there are several."""
        bodies = [codec.encode(message) for message in messages]
        body, kind = (bodies[0], codec.MSGPACK) if len(bodies) == 1 else (batch.join(bodies), batch.BATCH)
        await self.send_raw(to, body, kind)

    async def send_raw(self, to: str, body: bytes, content_type: str = codec.MSGPACK) -> None:
        await self.transport.send(self.topology.rpc, to, body, content_type=content_type, timeout=LIMIT, mandatory=True)

    def _receive(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            assert isinstance(message, ServiceMessage)
            self.inbox.put_nowait(message)

    def _asked(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            assert isinstance(message, ServiceMessage)
            if message.reply_to and not self.silent:
                self.transport.post(self.topology.rpc, message.reply_to, self._announcement())

    def _announcement(self) -> bytes:
        return codec.encode(
            ServiceMessage(
                self.ids.next(),
                MessageType.BROADCAST,
                self.instance.service,
                self.instance.id,
                "",
                "fabric.up",
                self.instance.to_plain(),
                Priority.CRITICAL,
            )
        )


async def turns(count: int = 20) -> None:
    """Let everything that is ready run, and what follows from it."""
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when it holds; fail when it does not within a generous limit."""
    async with asyncio.timeout(LIMIT):
        while not holds():
            await asyncio.sleep(0.002)


async def keep_trying(attempt: Callable[[], Awaitable[bool]], *, within: float = LIMIT) -> None:
    """Return when an attempt says that it worked; fail when none does within so many seconds."""
    async with asyncio.timeout(within):
        while not await attempt():
            await asyncio.sleep(0.02)
