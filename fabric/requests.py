"""Requests under way: sent, matched with their answers, given up.

Every request ends exactly once, by whatever comes first: its answer, the broker's word that it could not be delivered, the
loss of its instance or of our link, its deadline, or its caller's cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fabric.clock import Clock
from fabric.config import Settings
from fabric.deadlines import Lookout
from fabric.errors import (
    CallError,
    CallNotSent,
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    FabricError,
    InstanceLost,
    InvalidMessage,
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
from fabric.pending import Pending, Question
from fabric.routing.breaker import Breaker
from fabric.routing.ejection import Ejections
from fabric.routing.outcomes import Facts, outcome, speaks_well
from fabric.routing.registry import Endpoint, Happening, RegistryEvent, ServiceRegistry
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.transports.outbox import Outbox, Parcel
from fabric.transports.topology import Topology
from fabric.wire import codec, rows
from fabric.wire.message import MessageType, Priority, ServiceMessage

_REQUEST: Final = MessageType.REQUEST
_RESPONSE: Final = MessageType.RESPONSE
_PARTS: Final = frozenset({MessageType.STREAM_ITEM, MessageType.STREAM_END})

_FRAME: Final = 8
"""Bytes at most that a request of its own has besides what its row and its head hold."""


class PendingRequests:
    """Sends requests over a transport and matches the answers. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        registry: ServiceRegistry,
        ejections: Ejections,
        settings: Settings,
        me: Identity,
        *,
        clock: Clock,
    ) -> None:
        self._transport, self._exchange, self._registry, self._ejections = transport, topology.rpc, registry, ejections
        self._loop = asyncio.get_running_loop()
        self._source, self._address, self._ids, self._clock = me.service, me.address, me.ids, clock
        self._limits = codec.Limits(message_bytes=min(settings.max_message_bytes, transport.max_body))
        self._pending: dict[str, Pending] = {}
        self._lookout: Lookout[Pending] = Lookout(self._pending, self._expire)
        self._heads: dict[tuple[str, Priority], bytes] = {}
        self._doomed: dict[str, str] = {}
        """Requests whose instance went before it was known whether they had reached it, and why it went."""
        self._outbox = Outbox(
            transport, sent=self._sent, failed=self._failed, whole=self._whole, max_batch_bytes=settings.max_batch_bytes
        )
        self._unwatch = (transport.watch(self._link_changed), registry.watch(self._registry_changed))
        self.late_answers = 0

    def __len__(self) -> int:
        return len(self._pending)

    def ask(self, breaker: Breaker | None, endpoint: Endpoint, question: Question, facts: Facts, now: float) -> Pending:
        """Send one request to one instance, if the breakers allow. Its future is the answer's payload, or the ``CallError`` that
        it ended as.

        The breakers are told how it ended. Who stops waiting for it says so by ``withdraw``.

        Args:
            breaker: of the target as a whole, if it has one.
            now: in monotonic seconds.

        Raises:
            CallError: it was not sent.
            PayloadTooLarge, InvalidMessage: it can't be sent.
        """
        gate = 0 if breaker is None else breaker.permit or self._permitted(breaker, facts, now)
        own = endpoint.breaker
        permit = (0 if own is None else own.permit) or self._ejections.acquire(endpoint, now)
        pending = Pending(self._ids.next(), endpoint, question, facts, self._loop.create_future(), now, permit, breaker, gate)
        try:
            self._send(pending)
        except BaseException as error:
            self._end(pending, self._clock.monotonic(), ok=None)
            if isinstance(error, NotSent):
                raise CallNotSent(error.text, **self.facts(pending)) from error
            raise
        return pending

    async def begin(
        self, breaker: Breaker | None, endpoint: Endpoint, question: Question, facts: Facts, now: float, window: int
    ) -> Inflow:
        """Send one request whose answer comes in parts, and return when the first has come, or the end of none. How the rest
        of them fares is not told to breakers.

        Args:
            window: parts that may be on the way or unread.

        Raises:
            CallError: how it ended instead.
            PayloadTooLarge, InvalidMessage: as of ``ask``, as are the arguments.
        """
        gate = 0 if breaker is None else self._permitted(breaker, facts, now)
        permit = self._ejections.acquire(endpoint, now)
        future: asyncio.Future[Any] = self._loop.create_future()
        method, payload, priority, headers = question
        question = method, payload, priority, {**(headers or {}), WINDOW: window}
        flow = Inflow(self, window, self._ids.next(), endpoint, question, facts, future, now, permit, breaker, gate)
        ok: bool | None = None
        try:
            self._send(flow)
            await flow.begun
            if flow.failed:
                flow.future.result()
            ok = True
            return flow
        except BaseException as error:
            self.leave(flow)
            if isinstance(error, NotSent):
                raise CallNotSent(error.text, **self.facts(flow)) from error
            ok = speaks_well(error) if isinstance(error, CallError) else None
            raise
        finally:
            self._judge(flow, self._clock.monotonic(), ok=ok)

    def _permitted(self, breaker: Breaker, facts: Facts, now: float) -> int:
        """A permit for the target as a whole."""
        gate = breaker.acquire(now)
        if not gate:
            facts.instance = None
            why = "isolated by hand" if breaker.isolated else "it failed too often lately"
            raise CircuitOpen(why, retry_after=breaker.retry_after(now), **facts.at(self._loop.time()))
        return gate

    def _send(self, pending: Pending) -> None:
        """It is under way from now on."""
        id, endpoint = pending.id, pending.endpoint
        method, payload, priority, headers = pending.question
        self._pending[id] = pending
        endpoint.pending += 1
        if pending.due < self._lookout.next:
            self._lookout.expect(pending.due)
        service = endpoint.instance.service
        head = self._heads.get((service, priority))
        if head is None:
            head = rows.head(_REQUEST, self._source, self._address, service, priority, self._address)
            self._heads[service, priority] = head
        deadline, attempt = self._clock.time() - self._loop.time() + pending.due, pending.facts.attempt
        if headers is None and attempt == 1:
            row: tuple[Any, ...] = (id, method, payload, deadline)
        else:
            row = id, method, payload, deadline, attempt, headers
            codec.check_extras(None, headers, self._limits)
        data = codec.encode_row(row, len(head) + _FRAME, self._limits)
        self._outbox.put(self._exchange, endpoint.id, priority, data, pending, endpoint.pending, head)

    def _whole(self, parcel: Parcel) -> bytes:
        """A request that travels alone, which clients in other languages need not read rows for."""
        assert isinstance(parcel, Pending)
        method, payload, priority, headers = parcel.question
        address, service, facts = self._address, parcel.endpoint.instance.service, parcel.facts
        return codec.encode(
            (
                parcel.id,
                _REQUEST,
                self._source,
                address,
                service,
                method,
                payload,
                priority,
                None,
                self._clock.time() - self._loop.time() + parcel.deadline,
                facts.attempt,
                address,
                None,
                headers,
            ),
            self._limits,
        )

    def _end(self, pending: Pending, now: float, *, ok: bool | None) -> None:
        """It is not under way any more; ``ok`` as of ``Breaker.settle``."""
        del self._pending[pending.id]
        pending.endpoint.pending -= 1
        self._judge(pending, now, ok=ok)

    def _judge(self, pending: Pending, now: float, *, ok: bool | None) -> None:
        """Let its breakers know how it ended."""
        seconds = now - pending.began
        self._ejections.settle(pending.endpoint, pending.permit, now, ok=ok, seconds=seconds)
        if pending.breaker is not None:
            pending.breaker.settle(pending.gate, now, ok=ok, seconds=seconds)

    def _fail(self, pending: Pending, error: FabricError) -> None:
        """It has ended so, unless it has ended already."""
        if isinstance(pending, Inflow):
            pending.fail(error)
        elif not pending.future.done():
            self._end(pending, self._clock.monotonic(), ok=speaks_well(error) if isinstance(error, CallError) else None)
            pending.future.set_exception(error)

    def withdraw(self, pending: Pending) -> None:
        """Nobody waits for it any more. Does nothing if it has ended."""
        if pending.id in self._pending:
            self._end(pending, self._clock.monotonic(), ok=None)
            self._cancel(pending)
        elif not pending.future.cancelled():
            pending.future.exception()  # it ended in the same turn; nobody is left to see how

    def leave(self, flow: Inflow) -> None:
        """Its reader has seen the end, or wants no more. Idempotent."""
        if self._pending.pop(flow.id, None) is None:
            return
        flow.endpoint.pending -= 1
        future = flow.future
        late = future.done() and not future.cancelled() and isinstance(future.exception(), (DeadlineExceeded, LinkLost))
        if not future.done() or late:
            self._cancel(flow)
        future.cancel()

    def take(self, answers: Iterable[Sequence[Any]], now: float, load: int | None) -> None:
        """Take answers, as ids and payloads, that came together from one instance at ``now``, in monotonic seconds.

        Args:
            load: requests that the instance runs and keeps waiting, if it says so.
        """
        waiting = self._pending
        good: list[Pending] = []
        for id, payload in answers:
            pending = waiting.get(id)
            if pending is None or pending.future.done():
                self.late_answers += 1
            elif type(pending) is Pending:
                del waiting[id]
                pending.endpoint.pending -= 1
                pending.future.set_result(payload)
                good.append(pending)
            else:
                pending.future.set_result(payload)
        if good:
            if load is not None:
                good[0].endpoint.reported(load)
            self._judge_good(good, now)

    def answer(self, messages: Iterable[ServiceMessage | InvalidMessage], now: float) -> list[ServiceMessage | InvalidMessage]:
        """Take responses, and parts of them, from among what came together at ``now``, in monotonic seconds.

        Returns:
            What else came.
        """
        waiting = self._pending
        plain: list[tuple[str, Any]] = []
        others: list[ServiceMessage | InvalidMessage] = []
        for message in messages:
            if isinstance(message, InvalidMessage):
                others.append(message)
                continue
            _, kind, _, _, _, _, payload, _, id, _, _, _, error, headers = message
            if kind is not _RESPONSE and kind not in _PARTS:
                others.append(message)
                continue
            pending = waiting.get(id or "")
            if pending is None or pending.future.done():
                self.late_answers += 1
            elif error is None and kind is _RESPONSE:
                if headers is not None:
                    _report(pending.endpoint, headers)
                plain.append((pending.id, payload))
            elif kind is _RESPONSE:
                self.settle(pending, message)
            elif isinstance(pending, Inflow):
                pending.take(message)
        self.take(plain, now, None)
        return others

    def _judge_good(self, answered: Sequence[Pending], now: float) -> None:
        """Let the breakers know of answers that came together: at once of those with the same permits, which are most."""
        while answered:
            first = answered[0]
            endpoint, permit, breaker, gate = first.endpoint, first.permit, first.breaker, first.gate
            same = [
                p for p in answered if p.endpoint is endpoint and p.permit == permit and p.breaker is breaker and p.gate == gate
            ]
            seconds = [now - pending.began for pending in same]
            self._ejections.settle_good(endpoint, permit, now, seconds)
            if breaker is not None:
                breaker.settle_good(gate, now, seconds)
            if len(same) == len(answered):
                return
            judged = set(same)
            answered = [pending for pending in answered if pending not in judged]

    def settle(self, pending: Pending, message: ServiceMessage) -> None:
        """It has ended, by this message."""
        if message.headers is not None:
            _report(pending.endpoint, message.headers)
        if message.error is not None:
            self._fail(pending, outcome(message.error, self.facts(pending)))
        else:
            pending.future.set_result(message.payload)

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
        before = self._clock.monotonic() - older_than
        owed: dict[str, list[str]] = {}
        for pending in self._pending.values():
            if pending.epoch and pending.began <= before:
                owed.setdefault(pending.endpoint.id, []).append(pending.id)
        return owed

    def lose(self, instance: str, reason: str) -> None:
        """The instance, which the registry may not know by now, is gone: nobody answers what it had."""
        self._registry.lose(instance, reason)
        self._doomed = {id: why for id, why in self._doomed.items() if id in self._pending}
        for pending in list(self._pending.values()):
            if pending.endpoint.id != instance:
                continue
            if pending.epoch:
                self._fail(pending, InstanceLost(reason, **self.facts(pending)))
            elif pending.left:
                # The broker is about to say whether it was delivered, which is better to know.
                self._doomed[pending.id] = reason

    def forgotten(self, requests: Iterable[str]) -> None:
        """Their instance says that it neither has them nor owes an answer: they, or their answers, were lost on the way."""
        for id in requests:
            pending = self._pending.get(id)
            if pending is not None:
                lost = LinkLost if pending.epoch < self._transport.epoch else InstanceLost
                self._fail(pending, lost("the instance does not have the request any more", **self.facts(pending)))

    def close(self, reason: str) -> None:
        """Fail everything that is under way."""
        for pending in list(self._pending.values()):
            kind = LinkLost if pending.left else CallNotSent
            self._fail(pending, kind(reason, **self.facts(pending)))

    async def aclose(self) -> None:
        for unwatch in self._unwatch:
            unwatch()
        self.close("the hub was closed")
        self._lookout.close()
        await self._outbox.aclose()

    def facts(self, pending: Pending) -> dict[str, Any]:
        return pending.facts.at(self._loop.time())

    def _expire(self, pending: Pending) -> None:
        if pending.left:
            self._fail(pending, DeadlineExceeded(**self.facts(pending)))
            if type(pending) is Pending:
                self._cancel(pending)
        else:
            where = f"it waited for the link, which is {self._transport.state}"
            self._fail(pending, CallNotSent(where, **self.facts(pending)))

    def _cancel(self, pending: Pending) -> None:
        """Its handler need not go on."""
        self.tell(pending, MessageType.CANCEL)

    def _sent(self, parcels: Sequence[Parcel]) -> None:
        epoch = self._transport.epoch
        for parcel in parcels:
            assert isinstance(parcel, Pending)
            parcel.epoch = epoch
            if self._doomed and (reason := self._doomed.pop(parcel.id, None)) is not None:
                self._fail(parcel, InstanceLost(reason, **self.facts(parcel)))

    def _failed(self, parcels: Sequence[Parcel], error: FabricError) -> None:
        if isinstance(error, ConnectionLost) and self._transport.state is LinkState.RECONNECTING:
            # They may have arrived, and be answered over the next link; the instance is asked then.
            self._sent(parcels)
            return
        for parcel in parcels:
            assert isinstance(parcel, Pending)
            if not parcel.future.done():
                self._fail(parcel, self._unsent(parcel, error))
        if isinstance(error, NoRoute):
            self.lose(error.key, "its inbox is gone from the broker")

    def _unsent(self, pending: Pending, error: FabricError) -> FabricError:
        if isinstance(error, (PayloadTooLarge, InvalidMessage)):
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


def _report(endpoint: Endpoint, headers: Mapping[str, Any]) -> None:
    if type(load := headers.get("load")) is int:
        endpoint.reported(load)
