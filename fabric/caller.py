"""The client's side of a call: one deadline, attempts, candidates, a choice, an answer or a typed error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import current_call
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
)
from fabric.presence import Presence
from fabric.routing.balancing import Strategy, strategy
from fabric.routing.outcomes import Facts, outcome
from fabric.routing.registry import Endpoint, Happening, RegistryEvent, ServiceRegistry
from fabric.routing.retry import RetryBudget, RetryPolicy
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.transports.outbox import Outbox, Parcel
from fabric.transports.topology import Topology
from fabric.wire import codec
from fabric.wire.message import MessageIds, MessageType, Priority, ServiceMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a call is for: exactly one of ``service`` and ``capability``; ``instance`` pins it to one process."""

    service: str | None = None
    capability: str | None = None
    instance: str | None = None

    @property
    def label(self) -> str:
        return self.service if self.service is not None else f"capability:{self.capability}"


class Pending:
    """A request that has left and has no answer yet. It is also its own parcel in the outbox."""

    __slots__ = ("deadline", "endpoint", "epoch", "facts", "future", "id", "started", "timer")

    def __init__(
        self, id: str, endpoint: Endpoint, facts: Facts, future: asyncio.Future[Any], started: float, deadline: float
    ) -> None:
        self.id, self.endpoint, self.facts, self.future = id, endpoint, facts, future
        self.started, self.deadline = started, deadline
        self.epoch: int | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def wanted(self) -> bool:
        return not self.future.done()

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Caller:
    """Makes calls over a transport and matches the answers. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        registry: ServiceRegistry,
        presence: Presence,
        settings: Settings,
        *,
        source: str,
        address: str,
        ids: MessageIds,
        clock: Clock,
        retry: RetryPolicy,
        balancing: str,
        chance: random.Random,
    ) -> None:
        self._transport, self._topology, self._registry, self._presence = transport, topology, registry, presence
        self._settings, self._source, self._address, self._ids, self._clock = settings, source, address, ids, clock
        self._retry, self._balancing, self._chance = retry, balancing, chance
        self._limits = codec.Limits(message_bytes=settings.max_message_bytes)
        self._pending: dict[str, Pending] = {}
        self._strategies: dict[str, Strategy] = {}
        self._budgets: dict[str, RetryBudget] = {}
        self._outbox = Outbox(transport, sent=self._sent, failed=self._failed, max_batch_bytes=settings.max_batch_bytes)
        self._unwatch = (transport.watch(self._link_changed), registry.watch(self._registry_changed))
        self.late_answers = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    def waiting_on(self, older_than: float) -> set[str]:
        """Instances that owe an answer for more than that many seconds."""
        before = asyncio.get_running_loop().time() - older_than
        return {pending.endpoint.id for pending in self._pending.values() if pending.started < before}

    async def call(
        self,
        target: Target,
        method: str,
        payload: Any,
        *,
        timeout: float | None,
        priority: Priority,
        idempotent: bool | None,
        headers: dict[str, Any] | None,
    ) -> Any:
        """The answer's payload as it came.

        Raises:
            CallError: see the table of outcomes in docs/delivery.md.
        """
        now = asyncio.get_running_loop().time
        facts = Facts(target.label, method, now())
        limit = await self._limit(target, method, timeout, facts)
        deadline = facts.started + limit
        budget = self._budget(target.label)
        budget.deposit()
        tried: set[str] = set()
        while True:
            try:
                endpoint = await self._choose(target, facts, tried, deadline)
                facts.instance = endpoint.id
                return await self._attempt(endpoint, method, payload, facts, deadline, priority, headers)
            except CallError as error:
                known = idempotent if idempotent is not None else self._is_idempotent(tried, facts.instance, method, target)
                if not self._retry.allows(error, idempotent=known):
                    raise
                pause = self._retry.pause(error, self._chance)
                if now() + pause >= deadline or (not isinstance(error, NoInstance) and not budget.withdraw()):
                    raise
                if isinstance(error, NoInstance) and error.instance is None:
                    raise
                if facts.instance is not None:
                    tried.add(facts.instance)
                if pause:
                    await asyncio.sleep(pause)
                facts.attempt += 1

    async def _limit(self, target: Target, method: str, timeout: float | None, facts: Facts) -> float:
        """Seconds for the whole call: what the caller says, else the method, else the default; never past the deadline of
        the call that this one is part of."""
        if timeout is None:
            offered = self._candidates(target)
            options = offered[0].instance.methods.get(method) if offered else None
            timeout = options.get("timeout") if options is not None else None
            if not isinstance(timeout, (int, float)) or timeout <= 0:
                timeout = self._settings.call_timeout
        outer = current_call()
        if outer is not None and outer.deadline is not None:
            timeout = min(timeout, outer.deadline - self._clock.time())
        if timeout <= 0:
            raise DeadlineExceeded("the time was used up before the call began", **facts.at(facts.started))
        return timeout

    def _candidates(self, target: Target) -> list[Endpoint]:
        if target.service is not None:
            return self._registry.candidates(target.service)
        assert target.capability is not None
        return self._registry.candidates_by_capability(target.capability)

    async def _choose(self, target: Target, facts: Facts, tried: set[str], deadline: float) -> Endpoint:
        candidates = self._candidates(target)
        if target.instance is not None:
            candidates = [endpoint for endpoint in candidates if endpoint.id == target.instance]
        if not candidates:
            reason = await self._presence.find(target.service, target.capability, deadline)
            candidates = self._candidates(target)
            if target.instance is not None:
                candidates = [endpoint for endpoint in candidates if endpoint.id == target.instance]
            if not candidates:
                facts.instance = None
                raise NoInstance(reason, **facts.at(asyncio.get_running_loop().time()))
        if tried:
            candidates = [endpoint for endpoint in candidates if endpoint.id not in tried] or candidates
        chooser = self._strategies.get(target.label)
        if chooser is None:
            chooser = self._strategies[target.label] = strategy(self._balancing)
        return chooser.choose(candidates)

    async def _attempt(
        self,
        endpoint: Endpoint,
        method: str,
        payload: Any,
        facts: Facts,
        deadline: float,
        priority: Priority,
        headers: dict[str, Any] | None,
    ) -> Any:
        loop = asyncio.get_running_loop()
        now = loop.time()
        id = self._ids.next()
        data = codec.encode(
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
                self._clock.time() + deadline - now,
                facts.attempt,
                self._address,
                None,
                headers,
            ),
            self._limits,
        )
        pending = Pending(id, endpoint, facts, loop.create_future(), now, deadline)
        pending.timer = loop.call_at(deadline, self._expire, pending)
        self._pending[id] = pending
        endpoint.pending += 1
        try:
            self._outbox.put(self._topology.rpc, endpoint.id, priority, data, pending)
            return await pending.future
        except (asyncio.CancelledError, DeadlineExceeded):
            if pending.epoch is not None:
                self._cancel(pending)
            raise
        except NotSent as error:
            raise CallNotSent(str(error), **facts.at(loop.time())) from error
        finally:
            pending.future.cancel()
            pending.timer.cancel()
            self._pending.pop(id, None)
            endpoint.pending -= 1

    def answer(self, message: ServiceMessage) -> None:
        """Take a response."""
        pending = self._pending.get(message.correlation_id or "")
        if pending is None or pending.future.done():
            self.late_answers += 1
            return
        if message.error is None:
            pending.future.set_result(message.payload)
        else:
            pending.fail(outcome(message.error, self._facts(pending)))

    def _facts(self, pending: Pending) -> dict[str, Any]:
        return pending.facts.at(asyncio.get_running_loop().time())

    def _expire(self, pending: Pending) -> None:
        if pending.epoch is None:
            where = f"still waiting to be sent, the link is {self._transport.state}"
            pending.fail(CallNotSent(where, **self._facts(pending)) if self._never_left(pending) else self._late(pending))
        else:
            pending.fail(self._late(pending))

    def _never_left(self, pending: Pending) -> bool:
        return self._transport.state is not LinkState.READY

    def _late(self, pending: Pending) -> DeadlineExceeded:
        return DeadlineExceeded(**self._facts(pending))

    def _cancel(self, pending: Pending) -> None:
        message = ServiceMessage(
            self._ids.next(),
            MessageType.CANCEL,
            self._source,
            self._address,
            pending.endpoint.instance.service,
            pending.facts.method,
            priority=Priority.HIGH,
            correlation_id=pending.id,
        )
        if self._transport.state is not LinkState.CLOSED:
            self._transport.post(self._topology.rpc, pending.endpoint.id, codec.encode(message), priority=Priority.HIGH)

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
            self._registry.lose(error.key, "its inbox is gone from the broker")

    def _unsent(self, pending: Pending, error: FabricError) -> CallError:
        facts = self._facts(pending)
        match error:
            case NoRoute():
                made: CallError = NoInstance("it went away", **facts)
            case NotSent():
                made = CallNotSent(str(error), **facts)
            case _:
                made = LinkLost(str(error), **facts)
        made.__cause__ = error
        return made

    def _registry_changed(self, event: RegistryEvent) -> None:
        if event.happening is not Happening.LOST:
            return
        for pending in list(self._pending.values()):
            if pending.endpoint.id == event.instance.id:
                self.lost(pending, event.reason)

    def lose(self, instance: str, reason: str) -> None:
        """An instance that may be unknown to the registry by now is gone: nobody answers what it had."""
        self._registry.lose(instance, reason)
        for pending in list(self._pending.values()):
            if pending.endpoint.id == instance:
                self.lost(pending, reason)

    def lost(self, pending: Pending, reason: str) -> None:
        if pending.epoch is None and pending.wanted:
            return  # still in the outbox: the broker will say whether it can be delivered
        pending.fail(InstanceLost(reason, **self._facts(pending)))

    def _link_changed(self, event: LinkEvent) -> None:
        """Answers to what was sent over an older link may have been dropped in between."""
        for pending in list(self._pending.values()):
            if pending.epoch is not None and (pending.epoch < event.epoch or event.state is LinkState.CLOSED):
                pending.fail(LinkLost(event.reason, **self._facts(pending)))

    def _is_idempotent(self, tried: set[str], instance: str | None, method: str, target: Target) -> bool:
        endpoint = self._registry.get(instance) if instance is not None else None
        offered = [endpoint] if endpoint is not None else self._candidates(target)
        return any(e.instance.methods.get(method, {}).get("idempotent") is True for e in offered)

    def _budget(self, label: str) -> RetryBudget:
        budget = self._budgets.get(label)
        if budget is None:
            budget = self._budgets[label] = RetryBudget(self._retry)
        return budget

    async def aclose(self) -> None:
        for unwatch in self._unwatch:
            unwatch()
        for pending in list(self._pending.values()):
            pending.fail(LinkLost("the hub was closed", **self._facts(pending)))
        await self._outbox.aclose()
