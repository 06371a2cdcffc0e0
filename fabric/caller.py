"""The client's side of a call: one deadline, attempts, candidates, a choice, an answer or a typed error."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import current_call
from fabric.errors import CallError, CallNotSent, NoInstance
from fabric.pending import PendingRequests
from fabric.presence import Presence
from fabric.routing.balancing import strategy
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.outcomes import Facts
from fabric.routing.registry import Endpoint, ServiceRegistry
from fabric.routing.retry import RetryBudget, RetryPolicy, goes_elsewhere
from fabric.routing.route import Route
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
        settings: Settings,
        *,
        clock: Clock,
        retry: RetryPolicy,
        balancing: str,
        chance: random.Random,
    ) -> None:
        self._pending, self._registry, self._presence = pending, registry, presence
        self._settings, self._clock, self._chance = settings, clock, chance
        self._retry, self._balancing = retry, balancing
        self._services: dict[str, Route] = {}
        self._capabilities: dict[str, Route] = {}
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        strategy(balancing)  # an unknown one is refused here, not at the first call

    def to_service(self, name: str) -> Route:
        """The route to a service; one for as long as this caller lives."""
        route = self._services.get(name)
        if route is None:
            route = self._services[name] = self._route(name, None)
        return route

    def to_capability(self, name: str) -> Route:
        route = self._capabilities.get(name)
        if route is None:
            route = self._capabilities[name] = self._route(None, name)
        return route

    def _route(self, service: str | None, capability: str | None) -> Route:
        return Route(
            service,
            capability,
            registry=self._registry,
            strategy=strategy(self._balancing),
            budget=RetryBudget(self._retry),
        )

    async def call(
        self,
        route: Route,
        method: str,
        payload: Any,
        *,
        instance: str | None = None,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Any:
        """The answer's payload as it came.

        Args:
            instance: only this one; otherwise whom the route chooses.

        Raises:
            CallError: see the table of outcomes in docs/delivery.md.
        """
        now = asyncio.get_running_loop().time
        started = now()
        facts = Facts(route.label, method, started, started + self._limit(route, method, timeout, started))
        route.budget.deposit()
        tried: set[str] = set()
        while True:
            endpoint: Endpoint | None = None
            try:
                if self._closing.done():
                    raise CallNotSent("the hub is closed", **facts.at(now()))
                if instance is not None:
                    endpoint = self._one(route, instance)
                else:
                    endpoint = route.choose(tried) or await self._find(route, facts)
                facts.instance = endpoint.id
                return await self._pending.ask(endpoint, method, payload, facts, priority, headers)
            except CallError as error:
                if endpoint is None or self._closing.done():
                    raise
                if idempotent is None:
                    idempotent = endpoint.instance.methods.get(method, {}).get("idempotent") is True
                pause = self._pause(error, route, idempotent=idempotent, pinned=instance is not None)
                if pause is None or now() + pause >= facts.deadline:
                    raise
                tried.add(endpoint.id)
                if pause:
                    await asyncio.wait((self._closing,), timeout=pause)
                facts.attempt += 1

    def _pause(self, error: CallError, route: Route, *, idempotent: bool, pinned: bool) -> float | None:
        """Seconds before another attempt; None when there is to be none."""
        if not self._retry.allows(error, idempotent=idempotent) or (pinned and isinstance(error, NoInstance)):
            return None
        if not goes_elsewhere(error) and not route.budget.withdraw():
            return None
        return self._retry.pause(error, self._chance)

    def _limit(self, route: Route, method: str, timeout: float | None, started: float) -> float:
        """Seconds for the whole call: what the caller says, else the method, else the default; never past the deadline of
        the call that this one is part of."""
        if timeout is None:
            declared = route.option(method, "timeout")
            timeout = declared if isinstance(declared, (int, float)) and declared > 0 else self._settings.call_timeout
        outer = current_call()
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

    async def _find(self, route: Route, facts: Facts) -> Endpoint:
        now = asyncio.get_running_loop().time
        reason = await self._presence.find(
            route.service, route.capability, lambda: bool(route.candidates()), deadline=facts.deadline
        )
        endpoint = None if self._closing.done() else route.choose(frozenset())
        if endpoint is not None:
            return endpoint
        facts.instance = None
        kind = CallNotSent if self._closing.done() or now() >= facts.deadline else NoInstance
        raise kind(reason, **facts.at(now()))

    def close(self) -> None:
        """End every call under way, in a typed way, and refuse further ones."""
        if not self._closing.done():
            self._closing.set_result(None)
        self._pending.close("the hub was closed")
