"""Everything that decides where the calls of one hub go."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from fabric.routing.breaker import CLOSED
from fabric.routing.ejection import Ejections
from fabric.routing.ejection_policy import EjectionPolicy
from fabric.routing.policies import Policies
from fabric.routing.registry import ServiceRegistry
from fabric.routing.route import Route

_MOST_ROUTES = 4096


class Traffic:
    """The routes of one hub, and the policies that they go by.

    Args:
        place: the host and the zone of this process.
    """

    def __init__(self, registry: ServiceRegistry, policies: Policies, *, place: tuple[str, str], chance: random.Random) -> None:
        self._registry, self._policies, self._place, self._chance = registry, policies, place, chance
        self._routes: dict[str, Route] = {}
        self.ejections = Ejections(registry, self._ejection_of, chance=chance)

    @property
    def policies(self) -> Policies:
        return self._policies

    def adopt(self, policies: Policies) -> bool:
        """Go by these from now on, for calls that begin later and attempts of those under way.

        Returns:
            False: they are older than those in force, and were not taken.
        """
        if policies.revision < self._policies.revision:
            return False
        self._policies = policies
        for route in self._routes.values():
            route.adopt(policies.of(_key(route)))
        self.ejections.adopt()
        return True

    def to(self, target: str) -> Route:
        """The route to a service or, as ``capability:NAME``, to whoever offers that; one for as long as it is used.

        Raises:
            ConfigurationError: what follows an ``@`` is not a range of versions.
        """
        route = self._routes.get(target)
        return route if route is not None else self._made(target)

    def used(self) -> Iterator[tuple[str, str, type, Any]]:
        """What was called: target, method, the type of what was sent, and what was expected."""
        for route in self._routes.values():
            for method, (sent, expected) in route.used.items():
                yield _key(route), method, sent, expected

    def isolate(self, service: str) -> None:
        """Make no calls to it until ``restore``: they end as CircuitOpen. A capability is written ``capability:NAME``."""
        breaker = self.to(service).breaker
        if breaker is not None:
            breaker.isolate()

    def restore(self, service: str) -> None:
        """Call it again, whatever its breaker has seen."""
        breaker = self.to(service).breaker
        if breaker is not None:
            breaker.restore()

    @property
    def open_circuits(self) -> Mapping[str, str]:
        """The targets that are not called freely, with the state of their breakers."""
        return {
            route.label: route.breaker.state.name.lower()
            for route in self._routes.values()
            if route.breaker is not None and route.breaker.state is not CLOSED
        }

    def _made(self, target: str) -> Route:
        if len(self._routes) >= _MOST_ROUTES:
            # Somebody calls names that it was given by others: what nobody offers need not be remembered.
            for known, route in list(self._routes.items()):
                if not route.candidates():
                    del self._routes[known]
        route = self._routes[target] = Route(
            target,
            policy=self._policies.of(target.partition("@")[0]),
            registry=self._registry,
            ejections=self.ejections,
            place=self._place,
            chance=self._chance,
        )
        return route

    def _ejection_of(self, service: str) -> EjectionPolicy | None:
        return self._policies.of(service).ejection


def _key(route: Route) -> str:
    return route.service if route.service is not None else f"capability:{route.capability}"
