"""All that a hub knows about reaching one service or capability."""

from __future__ import annotations

from collections.abc import Set

from fabric.routing.balancing import Strategy
from fabric.routing.registry import Endpoint, ServiceRegistry
from fabric.routing.retry import RetryBudget


class Route:
    """The way to one target: who offers it, whose turn it is, and how many retries it may still cost.

    Args:
        service: its name, or None for a capability.
        capability: what it offers, or None for a service.
    """

    __slots__ = ("_registry", "_strategy", "budget", "capability", "label", "service")

    def __init__(
        self,
        service: str | None,
        capability: str | None,
        *,
        registry: ServiceRegistry,
        strategy: Strategy,
        budget: RetryBudget,
    ) -> None:
        self.service, self.capability = service, capability
        self.label = service if service is not None else f"capability:{capability}"
        self._registry, self._strategy, self.budget = registry, strategy, budget

    def candidates(self) -> list[Endpoint]:
        """Those that a call may go to, ordered by id. The list is shared: don't change it."""
        if self.service is not None:
            return self._registry.candidates(self.service)
        return self._registry.candidates_by_capability(str(self.capability))

    def choose(self, tried: Set[str]) -> Endpoint | None:
        """Who gets the next attempt: one that was not tried as long as there is one. None: nobody is known."""
        candidates = self.candidates()
        if not candidates:
            return None
        if tried:
            candidates = [endpoint for endpoint in candidates if endpoint.id not in tried] or candidates
        return self._strategy.choose(candidates)

    def option(self, method: str, name: str) -> object:
        """What the instances declare of a method; None if nobody is known."""
        candidates = self.candidates()
        return candidates[0].instance.methods.get(method, {}).get(name) if candidates else None
