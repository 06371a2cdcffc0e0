"""The client that every process embeds: it only puts the steps in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from fabric.answers import NO_FALLBACK, instead, typed
from fabric.caller import Caller
from fabric.clock import Clock, SystemClock
from fabric.config import Settings
from fabric.contract import ServiceContract, contract_of
from fabric.contracts.usage import described
from fabric.dead_letters import DeadLetters
from fabric.detector import Detector
from fabric.errors import CallError, ConfigurationError
from fabric.follower import PolicyFollower
from fabric.identity import Identity
from fabric.inflow import Stream
from fabric.mailbox import Mailbox
from fabric.options import CallOptions, StreamOptions
from fabric.presence import Presence
from fabric.proxy import Proxy
from fabric.publisher import Publisher
from fabric.requests import PendingRequests
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.policies import Policies
from fabric.routing.registry import ServiceRegistry
from fabric.routing.retry import RetryPolicy
from fabric.routing.route import CAPABILITY
from fabric.routing.traffic import Traffic
from fabric.served import Served
from fabric.transports.base import Transport
from fabric.transports.connect import transport_for
from fabric.transports.topology import Topology, check_name
from fabric.values import plain
from fabric.wire.message import Priority

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


class Hub:
    """One process's place on the bus. Made by :meth:`connect`; ready as long as that context lasts.

    Attributes:
        name: the service it speaks as.
        instance: the id of this process.
        incarnation: grows each time a process takes the same instance id.
        registry: who it has heard of. A hub hears of those that it calls; see :meth:`discover_all`.
        transport: the link, for watching its state and measuring it.
        traffic: where its calls go, by which policies, and whom it leaves out.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        settings: Settings,
        *,
        clock: Clock,
        chance: random.Random,
        policies: Policies,
    ) -> None:
        self.name, self.settings, self.transport, self.clock = name, settings, transport, clock
        self._me = me = Identity.of(name, settings, clock)
        self.instance, self.incarnation = me.instance, me.incarnation
        self.registry = ServiceRegistry()
        self.topology = Topology(settings.namespace)
        self._served: Served | None = None
        self._leaving = False
        self._presence = Presence(transport, self.topology, self.registry, settings, me, clock=clock, chance=chance)
        self.traffic = Traffic(self.registry, policies, place=(settings.host, settings.zone), chance=chance)
        ejections = self.traffic.ejections
        self._pending = PendingRequests(transport, self.topology, self.registry, ejections, settings, me, clock=clock)
        self._detector = Detector(transport, self.topology, self.registry, self._pending, settings, me, clock=clock)
        self._caller = Caller(self._pending, self.registry, self._presence, self.traffic, settings, clock=clock, chance=chance)
        self._mailbox = Mailbox(
            transport, self.topology, settings, me, self._pending, self._detector, self._presence, clock=clock
        )
        self._follower = PolicyFollower(settings, me, self._caller, self.traffic, self.registry, self._presence)
        self._publisher = Publisher(transport, self.topology, settings, me)

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
        policies: Policies | None = None,
        retry: RetryPolicy | None = None,
        balancing: str | None = None,
    ) -> AsyncIterator[Hub]:
        """A hub that is connected on entry and closed on exit: what is served drains, and calls under way end typed.

        Args:
            name: of the service that it speaks as.
            url: ``amqp://``, ``amqps://`` or ``unix:///path``; by default ``FABRIC_BROKER_URL``.
            transport: used in place of ``url``; not yet connected, and closed with the hub.
            settings: by default from the environment.
            policies: how calls are treated; by default those of ``settings.policies``.
            retry, balancing: shorter than ``policies`` where only these differ, for all services.

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
            policies=(policies or Policies.from_plain(settings.policies or {})).varied(retry=retry, balancing=balancing),
        )
        async with AsyncExitStack() as stack:
            await hub._open(stack)
            yield hub

    async def _open(self, stack: AsyncExitStack) -> None:
        """Start the parts. ``stack`` ends them in reverse order: first what is served, while it can still call others."""
        limit = self.settings.connect_timeout
        stack.push_async_callback(self.transport.aclose)
        stack.push_async_callback(self._pending.aclose)
        stack.push_async_callback(self._mailbox.aclose)
        stack.push_async_callback(self._presence.aclose)
        stack.push_async_callback(self._detector.aclose)
        stack.callback(self._caller.close)
        await self.transport.connect(timeout=limit)
        await self._mailbox.open(timeout=limit)
        await self._presence.open(timeout=limit)
        self._detector.start()
        stack.push_async_callback(self._follower.aclose)
        self._follower.start()
        stack.push_async_callback(self._leave)

    async def _leave(self) -> None:
        if self._served is None:
            return
        self._leaving = True
        if not self._served.closed:
            self._presence.announce()
        await self._served.aclose()

    # ------------------------------------------------------------ calls

    @property
    def pending(self) -> int:
        """Requests of this process that have no answer yet."""
        return len(self._pending)

    @property
    def late_answers(self) -> int:
        """Answers that came when nobody waited for them any more."""
        return self._pending.late_answers

    @overload
    async def call(
        self,
        service: str,
        method: str,
        payload: Any = None,
        *,
        returns: TypeForm[T],
        fallback: T | Callable[[CallError], T | Awaitable[T]] = ...,
        **options: Unpack[CallOptions],
    ) -> T: ...
    @overload
    async def call(
        self,
        service: str,
        method: str,
        payload: Any = None,
        *,
        fallback: Any = ...,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    async def call(
        self,
        service: str,
        method: str,
        payload: Any = None,
        *,
        returns: Any = Any,
        fallback: Any = NO_FALLBACK,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
        instance: str | None = None,
        key: str | None = None,
    ) -> Any:
        """Ask one instance of a service and return its answer.

        Args:
            service: its name; ``name@^1.2`` asks for a range of versions, ``capability:NAME`` for whoever offers that.
            payload: a model, dataclass or plain data.
            returns: what the answer must be; checked. Without it the answer is plain data.
            fallback: the answer when there is none for another reason than the handler's own word: a value, or a function of
                the error, which may be async. It is returned as it is.
            timeout, priority, idempotent, headers, instance, key: see :class:`CallOptions`.

        Raises:
            CallError: each outcome has its class; see ``fabric.errors``.
            PayloadTooLarge, InvalidMessage: the payload can't be sent.
        """
        route = self.traffic.to(service)
        try:
            answer = await self._caller.call(route, method, plain(payload), timeout, priority, idempotent, headers, instance, key)
        except CallError as error:
            return await instead(fallback, error)
        if method not in route.used:
            route.use(method, payload, returns)
        if type(answer) is returns:
            return answer
        return typed(returns, answer, route.label, method)

    @overload
    async def call_by_capability(
        self,
        capability: str,
        method: str,
        payload: Any = None,
        *,
        returns: TypeForm[T],
        fallback: T | Callable[[CallError], T | Awaitable[T]] = ...,
        **options: Unpack[CallOptions],
    ) -> T: ...
    @overload
    async def call_by_capability(
        self, capability: str, method: str, payload: Any = None, *, fallback: Any = ..., **options: Unpack[CallOptions]
    ) -> Any: ...

    async def call_by_capability(
        self,
        capability: str,
        method: str,
        payload: Any = None,
        *,
        returns: Any = Any,
        fallback: Any = NO_FALLBACK,
        **options: Unpack[CallOptions],
    ) -> Any:
        """As :meth:`call`, to any instance of any service that offers ``capability``; ``name@^2`` as there."""
        target = CAPABILITY + capability
        return await self.call(target, method, payload, returns=returns, fallback=fallback, **options)

    @overload
    def stream(
        self, service: str, method: str, payload: Any = None, *, returns: TypeForm[T], **options: Unpack[StreamOptions]
    ) -> Stream[T]: ...
    @overload
    def stream(self, service: str, method: str, payload: Any = None, **options: Unpack[StreamOptions]) -> Stream[Any]: ...

    def stream(
        self, service: str, method: str, payload: Any = None, *, returns: Any = Any, **options: Unpack[StreamOptions]
    ) -> Stream[Any]:
        """Ask for an answer in parts: ``async for part in hub.stream(...)``. The method is an async generator there.

        Args:
            service: as of :meth:`call`.
            returns: what each part must be; checked.
            options: see :class:`StreamOptions`. The time limit is that of the whole stream.
        """
        window = options.setdefault("window", 64)
        if not 1 <= window <= 1_000_000:
            raise ConfigurationError(f"window must be 1 to 1000000 parts, not {window}")
        route, sent = self.traffic.to(service), plain(payload)
        route.use(method, payload, returns)
        return Stream(
            lambda: self._caller.call(route, method, sent, **options),
            lambda part: typed(returns, part, route.label, method),
        )

    def proxy(self, service: type[T], *, timeout: float | None = None, priority: Priority = Priority.NORMAL) -> T:
        """The service's own methods as remote calls, typed as they are: arguments and results are checked on both sides.

        Only methods marked with ``@rpc`` can be used on it.
        """
        return cast(T, Proxy(self.call, self.stream, contract_of(service), timeout, priority))

    # ------------------------------------------------------------ events and broadcasts

    async def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        timeout: float = 10.0,
        headers: dict[str, Any] | None = None,
        id: str | None = None,
        key: str | None = None,
        delay: float | None = None,
    ) -> str:
        """Publish an event. When this returns the broker has stored it for every service that subscribes to it.

        Args:
            topic: words joined by dots.
            id: of the event, for subscribers that suppress duplicates; made when None.
            key: of what it is about; groups that ask for that handle events of one key in order. Give them one priority.
            delay: seconds for which the broker keeps it before anybody gets it, at most seven days. RabbitMQ rounds them up to
                two significant digits.

        Returns:
            The event's id.

        Raises:
            NotSent: the broker never had it.
            ConnectionLost: it may have been stored; publish again with the same ``id``.
            PayloadTooLarge, InvalidMessage: the payload can't be sent.
        """
        return await self._publisher.publish(
            topic, payload, priority=priority, timeout=timeout, headers=headers, id=id, key=key, delay=delay
        )

    def broadcast(
        self,
        topic: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        headers: dict[str, Any] | None = None,
    ) -> bool:
        """Tell every live instance that listens to ``topic``. Best effort: False when it was dropped here already."""
        return self._publisher.broadcast(topic, payload, priority=priority, headers=headers)

    def dead_letters(self, service: str, group: str = "default") -> DeadLetters:
        """What a service's subscription gave up. That of an ordered group is called ``GROUP.ordered`` here."""
        queue = self.topology.event_group(service, (), group=group, prefetch=1, max_attempts=1, retry_delays=(1.0,))
        assert queue.name is not None
        return DeadLetters(self.transport, queue.name)

    # ------------------------------------------------------------ discovery

    async def discover_all(self) -> None:
        """Hear of every instance of the namespace, not only of those that this hub calls."""
        await self._presence.find_everyone()

    async def find(self, service: str, *, timeout: float = 2.0) -> tuple[Instance, ...]:
        """Ask who is there of a service, whether it takes calls or not."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._presence.find(service, None, lambda: bool(self.registry.instances(service)), deadline=deadline)
        return self.registry.instances(service)

    async def ping(self, *, timeout: float = 5.0) -> float:
        """Seconds for one round trip through the broker."""
        return await self.transport.ping(timeout=timeout)

    # ------------------------------------------------------------ serving

    async def serve(self, service: object, describe: Callable[[], Instance] | None = None) -> Served:
        """Attach the methods and handlers of ``service`` to the bus. It is found and called once :meth:`Served.open_doors`
        was called and its announcement says that it runs.

        Args:
            service: an object whose class has marked methods.
            describe: what to announce; by default an instance that runs and is healthy.

        Raises:
            ConfigurationError: this hub serves already, or speaks for another service.
            ConnectionLost: the broker is not reached.
        """
        if self._served is not None:
            raise ConfigurationError(f"{self.name} serves already; one process is one instance of one service")
        contract = contract_of(type(service))
        if contract.name != self.name:
            raise ConfigurationError(f"this hub speaks as {self.name!r} and can't serve {contract.name!r}")
        self._served = await Served.open(
            self.transport,
            self.topology,
            self.settings,
            contract,
            service,
            self._me,
            clock=self.clock,
            about=lambda: described(contract, self.traffic.used()),
        )
        await self._presence.announce_as(describe or partial(self.describe, contract))
        return self._served

    def announce(self) -> None:
        """Tell the interested now that something changed; it is told regularly anyway."""
        self._presence.announce()

    def describe(self, contract: ServiceContract, **changes: Any) -> Instance:
        """This process as an announcement; ``changes`` override its fields."""
        facts: dict[str, Any] = {"load": self._served.load if self._served is not None else 0}
        if self._leaving:
            facts["state"] = InstanceState.STOPPING
        return self._me.announcement(contract, self.settings, **(facts | changes))
