"""One service on the bus in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Self

from fabric.clock import Clock
from fabric.config import Settings
from fabric.contract import ServiceContract
from fabric.dispatcher import MARK, Dispatcher
from fabric.errors import FabricError
from fabric.identity import Identity
from fabric.subscriber import Subscriber
from fabric.transports.base import Consumer, LinkState, Transport
from fabric.transports.topology import Topology, last_call
from fabric.wire import codec
from fabric.wire.message import MessageIds, MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.served")

LAST_CALL_TIMEOUT = 2.0


class Served:
    """A service on the bus: its inbox is there, its doors are closed at first."""

    def __init__(
        self,
        transport: Transport,
        dispatcher: Dispatcher,
        subscriber: Callable[[], Subscriber],
        inbox: Consumer,
        settings: Settings,
        *,
        exchange: str,
        instance: str,
    ) -> None:
        """``exchange``: where the inbox is bound to ``instance``."""
        self._transport, self._dispatcher, self._inbox, self._exchange = transport, dispatcher, inbox, exchange
        self._make_subscriber, self._settings, self._instance = subscriber, settings, instance
        self._subscriber: Subscriber | None = None
        self.closed = False

    @classmethod
    async def open(
        cls,
        transport: Transport,
        topology: Topology,
        settings: Settings,
        contract: ServiceContract,
        service: object,
        me: Identity,
        *,
        clock: Clock,
        about: Callable[[], dict[str, Any]],
    ) -> Self:
        """``about``: what the service offers, and what it calls, for those who ask.

        Raises:
            ConnectionLost: the broker is not reached.
        """
        dispatcher = Dispatcher(transport, topology, settings, contract, service, me, clock=clock, about=about)
        inbox = await transport.consume(topology.requests(me.instance), dispatcher.receive, timeout=settings.connect_timeout)
        subscriber = partial(Subscriber, transport, topology, settings, contract, service, clock=clock)
        return cls(transport, dispatcher, subscriber, inbox, settings, exchange=topology.rpc, instance=me.instance)

    @property
    def load(self) -> int:
        """Requests running and waiting."""
        return self._dispatcher.load

    async def open_doors(self) -> None:
        """Take requests, events and broadcasts from now on. Idempotent; if it fails the doors are closed as before."""
        if self._subscriber is None:
            subscriber = self._make_subscriber()
            try:
                await subscriber.open(self._settings.connect_timeout)
            except BaseException:
                await subscriber.drain(0.0)
                raise
            self._subscriber = subscriber
        self._dispatcher.accept(yes=True)

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse what is new, let what runs end within ``timeout`` seconds, then cancel it. Returns whether all ended."""
        limit = self._settings.drain_timeout if timeout is None else timeout
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is None:
            return await self._dispatcher.drain(limit)
        events, requests = await asyncio.gather(subscriber.drain(limit), self._dispatcher.drain(limit))
        return events and requests

    async def aclose(self) -> None:
        """Drain, then take the inbox off the bus; callers learn in one round trip. Idempotent."""
        if self.closed:
            return
        self.closed = True
        try:
            await self.drain()
            await self._last_call()
        finally:
            await self._inbox.aclose()
            await self._dispatcher.aclose()

    async def _last_call(self) -> None:
        """A queue that goes takes what it holds with it, unanswered. So first let nothing more in, and then let everything
        out that came before: a message to ourselves is behind all of it. It does not go by the name of the queue, for who may
        publish so may publish to every queue there is."""
        if self._transport.state is not LinkState.READY:
            return
        mark = ServiceMessage(MessageIds().next(), MessageType.PROBE, "", self._instance, "", MARK, priority=Priority.LOW)
        try:
            async with asyncio.timeout(LAST_CALL_TIMEOUT):
                await self._inbox.bind(last_call(self._instance))
                await self._inbox.unbind(self._instance)
                await self._transport.send(
                    self._exchange,
                    last_call(self._instance),
                    codec.encode(mark),
                    timeout=LAST_CALL_TIMEOUT,
                    priority=Priority.LOW,
                    mandatory=True,
                )
                await self._dispatcher.marked.wait()
        except (FabricError, TimeoutError) as error:
            _log.debug("%s left without a last call: %s", self._instance, error)
