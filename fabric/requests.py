"""Requests under way: sent, matched with their answers, given up.

Every request ends exactly once, by whatever comes first: its answer, the broker's word that it could not be delivered, the
loss of its instance or of our link, its deadline, or its caller's cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from fabric.clock import Clock
from fabric.config import Settings
from fabric.deadlines import Deadlines
from fabric.errors import (
    CallError,
    CallNotSent,
    DeadlineExceeded,
    FabricError,
    InstanceLost,
    LinkLost,
    NoInstance,
    NoRoute,
    NotSent,
    PayloadTooLarge,
    TransportClosed,
)
from fabric.identity import Identity
from fabric.inflow import Inflow
from fabric.outflow import WINDOW
from fabric.pending import Pending
from fabric.routing.outcomes import Facts, outcome
from fabric.routing.registry import Endpoint, Happening, RegistryEvent, ServiceRegistry
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.transports.outbox import Outbox, Parcel
from fabric.transports.topology import Topology
from fabric.wire import codec
from fabric.wire.message import MessageType, Priority, ServiceMessage


class PendingRequests:
    """Sends requests over a transport and matches the answers. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        registry: ServiceRegistry,
        settings: Settings,
        me: Identity,
        *,
        clock: Clock,
    ) -> None:
        self._transport, self._exchange, self._registry = transport, topology.rpc, registry
        self._source, self._address, self._ids, self._clock = me.service, me.address, me.ids, clock
        self._limits = codec.Limits(message_bytes=min(settings.max_message_bytes, transport.max_body))
        self._pending: dict[str, Pending] = {}
        self._deadlines: Deadlines[Pending] = Deadlines(self._expire)
        self._outbox = Outbox(transport, sent=self._sent, failed=self._failed, max_batch_bytes=settings.max_batch_bytes)
        self._unwatch = (transport.watch(self._link_changed), registry.watch(self._registry_changed))
        self.late_answers = 0

    def __len__(self) -> int:
        return len(self._pending)

    async def ask(
        self,
        endpoint: Endpoint,
        method: str,
        payload: Any,
        facts: Facts,
        priority: Priority,
        headers: dict[str, Any] | None,
    ) -> Any:
        """Send one request to one instance and return its answer's payload.

        Raises:
            CallError: how it ended instead.
            PayloadTooLarge, InvalidMessage: it can't be sent.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        id = self._ids.next()
        data = self._request(id, endpoint, method, payload, facts, priority, headers, now)
        future: asyncio.Future[Any] = loop.create_future()
        pending = Pending(id, endpoint, facts, future, now, facts.deadline)
        self._enter(pending)
        try:
            self._outbox.put(self._exchange, endpoint.id, priority, data, pending)
            return await future
        except asyncio.CancelledError:
            self._withdraw(pending)
            if not future.cancelled():
                future.exception()  # it ended in the same turn; nobody is left to see how
            raise
        except DeadlineExceeded:
            self._withdraw(pending)
            raise
        except NotSent as error:
            raise CallNotSent(error.text, **facts.at(loop.time())) from error
        finally:
            self._deadlines.remove(pending, pending.deadline)
            del self._pending[id]
            endpoint.pending -= 1

    async def begin(
        self,
        endpoint: Endpoint,
        method: str,
        payload: Any,
        facts: Facts,
        priority: Priority,
        headers: dict[str, Any] | None,
        *,
        window: int,
    ) -> Inflow:
        """Send one request whose answer comes in parts, and return when the first has come, or the end of none.

        Args:
            window: parts that may be on the way or unread.

        Raises:
            As ``ask``.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        id = self._ids.next()
        asking = {**(headers or {}), WINDOW: window}
        data = self._request(id, endpoint, method, payload, facts, priority, asking, now)
        flow = Inflow(self, window, id, endpoint, facts, loop.create_future(), now)
        self._enter(flow)
        try:
            self._outbox.put(self._exchange, endpoint.id, priority, data, flow)
            await flow.begun
            if flow.failed:
                flow.future.result()
            return flow
        except NotSent as error:
            self.leave(flow)
            raise CallNotSent(error.text, **facts.at(loop.time())) from error
        except BaseException:
            self.leave(flow)
            raise

    def _request(
        self,
        id: str,
        endpoint: Endpoint,
        method: str,
        payload: Any,
        facts: Facts,
        priority: Priority,
        headers: dict[str, Any] | None,
        now: float,
    ) -> bytes:
        return codec.encode(
            ServiceMessage(
                id,
                MessageType.REQUEST,
                self._source,
                self._address,
                endpoint.instance.service,
                method,
                payload,
                priority,
                None,
                self._clock.time() + facts.deadline - now,
                facts.attempt,
                self._address,
                None,
                headers,
            ),
            self._limits,
        )

    def _enter(self, pending: Pending) -> None:
        self._deadlines.add(pending, pending.deadline)
        self._pending[pending.id] = pending
        pending.endpoint.pending += 1

    def leave(self, flow: Inflow) -> None:
        """Its reader has seen the end, or wants no more. Idempotent."""
        if self._pending.pop(flow.id, None) is None:
            return
        self._deadlines.remove(flow, flow.deadline)
        flow.endpoint.pending -= 1
        future = flow.future
        late = future.done() and not future.cancelled() and isinstance(future.exception(), (DeadlineExceeded, LinkLost))
        if not future.done() or late:
            self._withdraw(flow)
        future.cancel()

    def answer(self, message: ServiceMessage) -> None:
        """Take a response, or a part of one."""
        pending = self._pending.get(message.correlation_id or "")
        if pending is None or pending.future.done():
            self.late_answers += 1
        elif message.type is MessageType.RESPONSE:
            self.settle(pending, message)
        elif isinstance(pending, Inflow):
            pending.take(message)

    def settle(self, pending: Pending, message: ServiceMessage) -> None:
        """It has ended."""
        if message.headers is not None and type(load := message.headers.get("load")) is int:
            pending.endpoint.reported(load)
        if message.error is None:
            pending.future.set_result(message.payload)
        else:
            pending.fail(outcome(message.error, self.facts(pending)))

    def tell(self, pending: Pending, type: MessageType, payload: Any = None) -> None:
        """Send the callee a word about a request of ours, if it can have it. Best effort."""
        if not pending.left or self._transport.state is LinkState.CLOSED:
            return
        message = ServiceMessage(
            self._ids.next(),
            type,
            self._source,
            self._address,
            pending.endpoint.instance.service,
            pending.facts.method,
            payload,
            Priority.HIGH,
            pending.id,
        )
        self._transport.post(self._exchange, pending.endpoint.id, codec.encode(message), priority=Priority.HIGH)

    def owed(self, older_than: float) -> dict[str, list[str]]:
        """The requests that wait for more than that many seconds, by the instance that owes the answer."""
        before = asyncio.get_running_loop().time() - older_than
        owed: dict[str, list[str]] = {}
        for pending in self._pending.values():
            if pending.epoch and pending.started <= before:
                owed.setdefault(pending.endpoint.id, []).append(pending.id)
        return owed

    def lose(self, instance: str, reason: str) -> None:
        """The instance, which the registry may not know by now, is gone: nobody answers what it had."""
        self._registry.lose(instance, reason)
        for pending in list(self._pending.values()):
            # Of what is not confirmed the broker is about to say whether it was delivered, which is better to know.
            if pending.endpoint.id == instance and pending.epoch:
                pending.fail(InstanceLost(reason, **self.facts(pending)))

    def forgotten(self, requests: Iterable[str]) -> None:
        """Their instance says that it neither has them nor owes an answer: they, or their answers, were lost on the way."""
        for id in requests:
            pending = self._pending.get(id)
            if pending is not None:
                lost = LinkLost if pending.epoch < self._transport.epoch else InstanceLost
                pending.fail(lost("the instance does not have the request any more", **self.facts(pending)))

    def close(self, reason: str) -> None:
        """Fail everything that is under way."""
        for pending in list(self._pending.values()):
            kind = LinkLost if pending.left else CallNotSent
            pending.fail(kind(reason, **self.facts(pending)))

    async def aclose(self) -> None:
        for unwatch in self._unwatch:
            unwatch()
        self.close("the hub was closed")
        self._deadlines.close()
        await self._outbox.aclose()

    def facts(self, pending: Pending) -> dict[str, Any]:
        return pending.facts.at(asyncio.get_running_loop().time())

    def _expire(self, pending: Pending) -> None:
        if pending.left:
            pending.fail(DeadlineExceeded(**self.facts(pending)))
        else:
            where = f"it waited for the link, which is {self._transport.state}"
            pending.fail(CallNotSent(where, **self.facts(pending)))

    def _withdraw(self, pending: Pending) -> None:
        """Nobody waits for it any more: its handler need not go on."""
        self.tell(pending, MessageType.CANCEL)

    def _sent(self, parcels: Sequence[Parcel]) -> None:
        epoch = self._transport.epoch
        for parcel in parcels:
            assert isinstance(parcel, Pending)
            parcel.epoch = epoch

    def _failed(self, parcels: Sequence[Parcel], error: FabricError) -> None:
        for parcel in parcels:
            assert isinstance(parcel, Pending)
            if parcel.wanted:
                parcel.fail(self._unsent(parcel, error))
        if isinstance(error, NoRoute):
            self.lose(error.key, "its inbox is gone from the broker")

    def _unsent(self, pending: Pending, error: FabricError) -> FabricError:
        if isinstance(error, PayloadTooLarge):
            return error
        facts = self.facts(pending)
        match error:
            case NoRoute():
                made: CallError = NoInstance("it went away", **facts)
            case NotSent() | TransportClosed():
                made = CallNotSent(error.text, **facts)
            case _:
                made = LinkLost(error.text, **facts)
        made.__cause__ = error
        return made

    def _registry_changed(self, event: RegistryEvent) -> None:
        if event.happening is Happening.LOST:
            self.lose(event.instance.id, event.reason)

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.CLOSED:
            self.close(event.reason)
