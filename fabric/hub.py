"""The client that every process embeds: it only puts the steps in order."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast, overload

from pydantic import ValidationError

from fabric.caller import Caller, Target
from fabric.clock import Clock, SystemClock
from fabric.config import Settings
from fabric.contract import ServiceContract, checked, contract_of, plain, problems
from fabric.dead_letters import DeadLetters
from fabric.dispatcher import Dispatcher
from fabric.errors import ConfigurationError, InvalidMessage, ValidationFailed
from fabric.health import Health
from fabric.presence import UP, Presence
from fabric.proxy import Proxy
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.registry import ServiceRegistry
from fabric.routing.retry import RetryPolicy
from fabric.served import Served
from fabric.subscriber import Subscriber
from fabric.transports.base import Delivery, Transport
from fabric.transports.connect import transport_for
from fabric.transports.topology import Topology, check_name
from fabric.wire import batch, codec
from fabric.wire.message import MessageIds, MessageType, Priority, ServiceMessage

T = TypeVar("T")


class Hub:
    """One process's place on the bus. Made by :meth:`connect`; ready as long as that context lasts.

    Attributes:
        name: the service it speaks as.
        instance: the id of this process.
        registry: who it has heard of. A hub hears of those that it calls; see :meth:`discover_all`.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        settings: Settings,
        *,
        clock: Clock,
        chance: random.Random,
        retry: RetryPolicy,
        balancing: str,
    ) -> None:
        self.name = name
        self.instance = settings.instance_for(name)
        self.settings = settings
        self.registry = ServiceRegistry()
        self._transport, self._clock = transport, clock
        self._topology = Topology(settings.namespace)
        self._ids = MessageIds()
        self._address = f"reply.{self._ids.next()}"
        self._incarnation = int(clock.time() * 1e6)
        self._presence = Presence(
            transport,
            self._topology,
            self.registry,
            settings,
            address=self._address,
            ids=self._ids,
            clock=clock,
            chance=chance,
        )
        self._caller = Caller(
            transport,
            self._topology,
            self.registry,
            self._presence,
            settings,
            source=name,
            address=self._address,
            ids=self._ids,
            clock=clock,
            retry=retry,
            balancing=balancing,
            chance=chance,
        )
        self._served: Served | None = None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        name: str = "client",
        *,
        url: str | None = None,
        transport: Transport | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
        retry: RetryPolicy | None = None,
        balancing: str = "round-robin",
    ) -> AsyncIterator[Hub]:
        """A hub that is connected on entry and closed on exit.

        Args:
            name: of the service that it speaks as.
            url: ``amqp://``, ``amqps://`` or ``unix:///path``; by default ``FABRIC_BROKER_URL``.
            transport: used in place of ``url``; not yet connected, and closed with the hub.
            settings: by default from the environment.
            retry: how failed attempts are repeated.
            balancing: round-robin, least-connections, weighted or random.

        Raises:
            ConnectionLost: the broker is not reached within ``settings.connect_timeout``.
            ConfigurationError: no broker is given, or the broker refuses us for good.
        """
        check_name("service", name)
        settings = settings or Settings()
        link = transport if transport is not None else transport_for(url, settings)
        hub = cls(
            name,
            link,
            settings,
            clock=clock or SystemClock(),
            chance=chance or random.Random(),
            retry=retry or RetryPolicy(),
            balancing=balancing,
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(link.aclose)
            await link.connect(timeout=settings.connect_timeout)
            replies = await link.consume(
                hub._topology.replies(hub._address), hub._receive_reply, timeout=settings.connect_timeout
            )
            stack.push_async_callback(replies.aclose)
            stack.push_async_callback(hub._caller.aclose)
            stack.push_async_callback(hub._presence.aclose)
            await hub._presence.open(waiting_on=hub._caller.waiting_on, lost=hub._caller.lose, timeout=settings.connect_timeout)
            yield hub

    @property
    def transport(self) -> Transport:
        """The link, for watching its state and measuring it."""
        return self._transport

    @property
    def incarnation(self) -> int:
        """Grows each time a process takes the same instance id."""
        return self._incarnation

    @property
    def topology(self) -> Topology:
        return self._topology

    @property
    def clock(self) -> Clock:
        return self._clock

    @overload
    async def call(
        self,
        service: str,
        method: str,
        payload: Any = None,
        *,
        returns: type[T],
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        instance: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> T: ...
    @overload
    async def call(
        self,
        service: str,
        method: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        instance: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Any: ...

    async def call(
        self,
        service: str,
        method: str,
        payload: Any = None,
        *,
        returns: Any = Any,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        instance: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Any:
        """Ask one instance of a service and return its answer.

        Args:
            payload: a model, dataclass or plain data.
            returns: what the answer must be; checked. Without it the answer is plain data.
            timeout: seconds for everything, attempts and pauses included; by default what the method declares, else
                ``settings.call_timeout``. Inside a handler it never passes the deadline of the call being answered.
            idempotent: whether it may run twice; by default what the method declares.
            instance: only this one.

        Raises:
            CallError: each outcome has its class; see ``fabric.errors``.
            PayloadTooLarge, InvalidMessage: the payload can't be sent.
        """
        target = Target(service=service, instance=instance)
        answer = await self._caller.call(
            target, method, plain(payload), timeout=timeout, priority=priority, idempotent=idempotent, headers=headers
        )
        return self._checked(target, method, returns, answer)

    @overload
    async def call_by_capability(
        self,
        capability: str,
        method: str,
        payload: Any = None,
        *,
        returns: type[T],
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
    ) -> T: ...
    @overload
    async def call_by_capability(
        self,
        capability: str,
        method: str,
        payload: Any = None,
        *,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Any: ...

    async def call_by_capability(
        self,
        capability: str,
        method: str,
        payload: Any = None,
        *,
        returns: Any = Any,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Any:
        """As :meth:`call`, to any instance of any service that offers ``capability``."""
        target = Target(capability=capability)
        answer = await self._caller.call(
            target, method, plain(payload), timeout=timeout, priority=priority, idempotent=idempotent, headers=headers
        )
        return self._checked(target, method, returns, answer)

    def _checked(self, target: Target, method: str, returns: Any, answer: Any) -> Any:
        if returns is Any:
            return answer
        try:
            return checked(returns, answer)
        except ValidationError as error:
            raise ValidationFailed(
                f"the answer is not a {getattr(returns, '__name__', returns)}",
                errors=problems(error),
                service=target.label,
                method=method,
            ) from None

    def proxy(self, service: type[T], *, timeout: float | None = None, priority: Priority = Priority.NORMAL) -> T:
        """The service's own methods as remote calls, typed as they are: arguments and results are checked on both sides.

        Only methods marked with ``@rpc`` can be used on it.
        """
        return cast(T, Proxy(self.call, contract_of(service), timeout, priority))

    async def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        timeout: float = 10.0,
        headers: dict[str, Any] | None = None,
        id: str | None = None,
    ) -> str:
        """Publish an event. When this returns the broker has stored it for every service that subscribes to it.

        Args:
            topic: words joined by dots.
            id: of the event, for subscribers that suppress duplicates; made when None.

        Returns:
            The event's id.

        Raises:
            NotSent: the broker never had it.
            ConnectionLost: it may have been stored; publish again with the same ``id``.
        """
        message = self._message(MessageType.EVENT, topic, payload, priority, headers, id)
        await self._transport.send(
            self._topology.events,
            topic,
            codec.encode(message, codec.Limits(message_bytes=self.settings.max_message_bytes)),
            timeout=timeout,
            priority=priority,
            message_id=message.id,
            persistent=True,
        )
        return message.id

    def broadcast(
        self,
        topic: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: dict[str, Any] | None = None,
    ) -> bool:
        """Tell every live instance that listens to ``topic``. Best effort: False when it was dropped here already."""
        message = self._message(MessageType.BROADCAST, topic, payload, priority, headers, None)
        return self._transport.post(self._topology.broadcast, topic, codec.encode(message), priority=priority)

    def _message(
        self,
        type: MessageType,
        topic: str,
        payload: Any,
        priority: Priority,
        headers: dict[str, Any] | None,
        id: str | None,
    ) -> ServiceMessage:
        return ServiceMessage(
            id or self._ids.next(),
            type,
            self.name,
            self.instance,
            topic,
            topic,
            plain(payload),
            priority,
            headers=headers,
        )

    async def discover_all(self) -> None:
        """Hear of every instance of the namespace, not only of those that this hub calls."""
        await self._presence.find_everyone()

    async def find(self, service: str, *, timeout: float = 2.0) -> tuple[Instance, ...]:
        """Ask who is there of a service, whether it takes calls or not."""
        await self._presence.find(service, None, asyncio.get_running_loop().time() + timeout)
        return self.registry.instances(service)

    def dead_letters(self, service: str, group: str = "default") -> DeadLetters:
        """What a service's subscription gave up."""
        queue = self._topology.event_group(service, (), group=group, prefetch=1, max_attempts=1, retry_delays=(1.0,))
        assert queue.name is not None
        return DeadLetters(self._transport, queue.name)

    async def ping(self, *, timeout: float = 5.0) -> float:
        """Seconds for one round trip through the broker."""
        return await self._transport.ping(timeout=timeout)

    async def serve(self, service: object, describe: Callable[[], Instance] | None = None) -> Served:
        """Attach the methods and handlers of ``service`` to the bus. It is found and called once :meth:`Served.open_doors`
        was called and its announcement says that it runs.

        Args:
            service: an object whose class has marked methods.
            describe: what to announce; by default an instance that runs and is healthy.
        """
        if self._served is not None:
            raise ConfigurationError(f"{self.name} serves already; one process is one instance of one service")
        contract = contract_of(type(service))
        if contract.name != self.name:
            raise ConfigurationError(f"this hub speaks as {self.name!r} and can't serve {contract.name!r}")
        dispatcher = Dispatcher(
            self._transport,
            self._topology,
            self.settings,
            contract,
            service,
            instance=self.instance,
            ids=self._ids,
            clock=self._clock,
        )
        inbox = await self._transport.consume(
            self._topology.requests(self.instance), dispatcher.receive, timeout=self.settings.connect_timeout
        )
        subscriber = partial(Subscriber, self._transport, self._topology, contract, service)
        self._served = Served(dispatcher, subscriber, inbox, self.settings)
        await self._presence.announce_as(describe or partial(self.describe, contract))
        return self._served

    def announce(self) -> None:
        """Tell the interested now that something changed; it is told regularly anyway."""
        self._presence.announce()

    def describe(self, contract: ServiceContract, **changes: Any) -> Instance:
        """This process as an announcement; ``changes`` override its fields."""

        fields: dict[str, Any] = {
            "service": contract.name,
            "id": self.instance,
            "incarnation": self._incarnation,
            "state": InstanceState.RUNNING,
            "health": Health.ok(),
            "version": contract.version,
            "capabilities": contract.capabilities,
            "weight": self.settings.weight,
            "load": self._served.load if self._served is not None else 0,
            "zone": self.settings.zone,
            "host": self.settings.host,
            "pid": os.getpid(),
            "methods": {
                name: {"idempotent": method.options.idempotent, "timeout": method.options.timeout}
                for name, method in contract.methods.items()
            },
            **changes,
        }
        return Instance(**fields)

    def _receive_reply(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            if isinstance(message, InvalidMessage):
                continue
            if message.type is MessageType.RESPONSE:
                self._caller.answer(message)
            elif message.method == UP:
                self._presence.heard(message)
