"""Everything that decides where the calls of one hub go."""

from __future__ import annotations

import random
from collections.abc import Mapping

from fabric.routing.breaker import CLOSED
from fabric.routing.ejection import EjectionPolicy, Ejections
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
        self._services: dict[str, Route] = {}
        self._capabilities: dict[str, Route] = {}
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
        for route in (*self._services.values(), *self._capabilities.values()):
            route.adopt(policies.of(_key(route)))
        self.ejections.adopt()
        return True

    def to_service(self, target: str) -> Route:
        """
        Raises:
            ConfigurationError: what follows the ``@`` is not a range of versions.
        """
        route = self._services.get(target)
        return route if route is not None else self._made(self._services, target, by_capability=False)

    def to_capability(self, target: str) -> Route:
        """As ``to_service``."""
        route = self._capabilities.get(target)
        return route if route is not None else self._made(self._capabilities, target, by_capability=True)

    def isolate(self, service: str) -> None:
        """Make no calls to it until ``restore``: they end as CircuitOpen. A capability is written ``capability:NAME``."""
        breaker = self._route(service).breaker
        if breaker is not None:
            breaker.isolate()

    def restore(self, service: str) -> None:
        """Call it again, whatever its breaker has seen."""
        breaker = self._route(service).breaker
        if breaker is not None:
            breaker.restore()

    @property
    def open_circuits(self) -> Mapping[str, str]:
        """The targets that are not called freely, with the state of their breakers."""
        routes = (*self._services.values(), *self._capabilities.values())
        return {
            route.label: route.breaker.state.name.lower()
            for route in routes
            if route.breaker is not None and route.breaker.state is not CLOSED
        }

    def _route(self, label: str) -> Route:
        kind, colon, name = label.partition(":")
        return self.to_capability(name) if colon and kind == "capability" else self.to_service(label)

    def _made(self, routes: dict[str, Route], target: str, *, by_capability: bool) -> Route:
        if len(routes) >= _MOST_ROUTES:
            # Somebody calls names that it was given by others: what nobody offers need not be remembered.
            for known, route in list(routes.items()):
                if not route.candidates():
                    del routes[known]
        name = target.partition("@")[0]
        route = routes[target] = Route(
            target,
            by_capability=by_capability,
            policy=self._policies.of(f"capability:{name}" if by_capability else name),
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
