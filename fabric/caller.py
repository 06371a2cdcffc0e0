"""The client's side of a call: one deadline, attempts, candidates, a choice, an answer or a typed error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import CallContext, answering, current_call
from fabric.errors import CallError, CallNotSent, NoInstance
from fabric.hedge import hedged
from fabric.pending import Question
from fabric.presence import Presence
from fabric.requests import PendingRequests
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.outcomes import Facts
from fabric.routing.registry import Endpoint, ServiceRegistry
from fabric.routing.retry import adds_load
from fabric.routing.route import Route
from fabric.routing.traffic import Traffic
from fabric.wire.message import Priority

LONGEST = 86_400.0
"""Seconds that a call may take at most, whatever is asked for: every call ends."""


class Caller:
    """Makes calls. Owned by a hub."""

    def __init__(
        self,
        pending: PendingRequests,
        registry: ServiceRegistry,
        presence: Presence,
        traffic: Traffic,
        settings: Settings,
        *,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._pending, self._registry, self._presence, self._traffic = pending, registry, presence, traffic
        self._settings, self._clock, self._chance = settings, clock, chance
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Future[None] = self._loop.create_future()

    async def call(
        self,
        route: Route,
        method: str,
        payload: Any,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
        instance: str | None = None,
        key: str | None = None,
        window: int = 0,
    ) -> Any:
        """The answer's payload as it came; an ``Inflow`` where parts are asked for.

        Args:
            instance: only this one; otherwise whom the route chooses.
            window: parts that may be on the way; 0 asks for one whole answer.

        Raises:
            CallError: see the table of outcomes in docs/delivery.md.
        """
        started = self._loop.time()
        outer = None if answering() is None else current_call()
        if timeout is None or outer is not None or not 0 < timeout <= LONGEST:
            timeout = self._limit(route, method, timeout, started, outer)
        facts = Facts(route.label, method, started, started + timeout)
        question = method, payload, priority, headers if headers is None else headers.copy()
        route.budget.deposit()
        tried: frozenset[str] = frozenset()
        while True:
            endpoint: Endpoint | None = None
            try:
                if self._closing.done():
                    raise CallNotSent("the hub is closed", **facts.at(self._loop.time()))
                began = self._clock.monotonic()
                endpoint = route.choose(tried, key, began) if instance is None else self._one(route, instance)
                if endpoint is None:
                    endpoint = await self._find(route, key, facts)
                    began = self._clock.monotonic()
                facts.instance = endpoint.id
                if window:
                    return await self._pending.begin(route.breaker, endpoint, question, facts, began, window)
                if route.policy.hedge_after is not None and instance is None and _may_repeat(endpoint, method, idempotent):
                    return await self._hedged(route, route.policy.hedge_after, endpoint, question, facts)
                pending = self._pending.ask(route.breaker, endpoint, question, facts, began)
                try:
                    return await pending.future
                except BaseException:
                    self._pending.withdraw(pending)
                    raise
            except CallError as error:
                if endpoint is None or self._closing.done():
                    raise
                pause = self._pause(
                    error,
                    route,
                    idempotent=_may_repeat(endpoint, method, idempotent),
                    pinned=instance is not None,
                    repeats=outer is not None and outer.attempt > 1,
                )
                if pause is None or self._loop.time() + pause >= facts.deadline:
                    raise
                tried |= {endpoint.id}
            if pause:
                await asyncio.wait((self._closing,), timeout=pause)
            facts.attempt += 1

    async def _attempt(self, route: Route, endpoint: Endpoint, question: Question, facts: Facts) -> Any:
        """Ask one instance, in a task of its own."""
        pending = self._pending.ask(route.breaker, endpoint, question, facts, self._clock.monotonic())
        try:
            return await pending.future
        except BaseException:
            self._pending.withdraw(pending)
            raise

    def _hedged(
        self, route: Route, after: float, endpoint: Endpoint, question: Question, facts: Facts
    ) -> Coroutine[Any, Any, Any]:
        """Ask a second instance as well when the first takes long."""

        def another() -> Coroutine[Any, Any, Any] | None:
            other = route.choose({endpoint.id}, None, self._clock.monotonic())
            if other is None or other is endpoint or not route.budget.withdraw():
                return None
            return self._attempt(route, other, question, replace(facts, attempt=facts.attempt + 1, instance=other.id))

        return hedged(self._attempt(route, endpoint, question, facts), after, another, facts.method)

    def _pause(self, error: CallError, route: Route, *, idempotent: bool, pinned: bool, repeats: bool) -> float | None:
        """Seconds before another attempt; None when there is to be none.

        Args:
            repeats: the call that this one is part of is itself another attempt: whoever made that one decides about more,
                or each layer would multiply the attempts of the one above.
        """
        retry = route.policy.retry
        if not retry.allows(error, idempotent=idempotent) or (pinned and isinstance(error, NoInstance)):
            return None
        if adds_load(error) and (repeats or not route.budget.withdraw()):
            return None
        return retry.pause(error, self._chance)

    def _limit(self, route: Route, method: str, timeout: float | None, started: float, outer: CallContext | None) -> float:
        """Seconds for the whole call: what the caller says, else the method, else the policy, else the settings; never past
        the deadline of the call that this one is part of."""
        if timeout is None:
            declared = route.option(method, "timeout")
            if isinstance(declared, (int, float)) and declared > 0:
                timeout = declared
            else:
                timeout = route.policy.timeout or self._settings.call_timeout
        if outer is not None and outer.deadline is not None:
            timeout = min(timeout, outer.deadline - self._clock.time())
        timeout = min(timeout, LONGEST)
        if not timeout > 0:  # nor not a number
            facts = Facts(route.label, method, started, started)
            raise CallNotSent("the time was used up before the call began", **facts.at(started))
        return timeout

    def _one(self, route: Route, instance: str) -> Endpoint:
        """The instance that the caller named. Nobody need have heard of it: the broker says whether it is there."""
        known = self._registry.get(instance)
        if known is not None and known.instance.service == route.service:
            return known
        unheard = Instance(service=str(route.service), id=instance, incarnation=0, state=InstanceState.RUNNING)
        return Endpoint(unheard, self._clock.monotonic())

    async def _find(self, route: Route, key: str | None, facts: Facts) -> Endpoint:
        now = asyncio.get_running_loop().time
        reason = await self._presence.find(
            route.service, route.capability, lambda: bool(route.candidates()), deadline=facts.deadline
        )
        endpoint = None if self._closing.done() else route.choose(frozenset(), key, self._clock.monotonic())
        if endpoint is not None:
            return endpoint
        facts.instance = None
        kind = CallNotSent if self._closing.done() or now() >= facts.deadline else NoInstance
        raise kind(route.describe_others() or reason, **facts.at(now()))

    def close(self) -> None:
        """End every call under way, in a typed way, and refuse further ones."""
        if not self._closing.done():
            self._closing.set_result(None)
        self._pending.close("the hub was closed")


def _may_repeat(endpoint: Endpoint, method: str, idempotent: bool | None) -> bool:
    """Whether it may run twice: what the caller says, else what the method declares."""
    return endpoint.instance.methods.get(method, {}).get("idempotent") is True if idempotent is None else idempotent
