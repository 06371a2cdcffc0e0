"""All that a hub knows about reaching one service or capability."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from typing import Any, Final

from fabric.routing.affinity import by_key
from fabric.routing.balancing import Strategy, strategy
from fabric.routing.breaker import Breaker
from fabric.routing.ejection import Ejections
from fabric.routing.policies import RoutePolicy
from fabric.routing.registry import Endpoint, ServiceRegistry
from fabric.routing.retry_budget import RetryBudget
from fabric.routing.versions import version_range

CAPABILITY: Final = "capability:"
_MOST_USED: Final = 1000
"""Methods that are remembered of one target. Who calls what it was given by others must not fill the memory."""


class Route:
    """The way to one target: who offers it, whose turn it is, whether it is worth trying, and how many retries it may cost.

    Args:
        target: the name of a service, or ``capability:`` and a name; after an ``@`` the versions that will do, as in
            ``email@^1.2``.
        place: the host and the zone of this process.

    Attributes:
        label: the target as errors name it.
        policy: in force; see ``adopt``.
        budget: of retries.
        breaker: of the target as a whole; None where the policy has none.
        used: by method that was called, the type of what was sent and what was expected, as of the first such call.

    Raises:
        ConfigurationError: the versions are not a range.
    """

    __slots__ = (
        "_candidates",
        "_chance",
        "_ejections",
        "_last",
        "_near",
        "_place",
        "_registry",
        "_revision",
        "_strategy",
        "breaker",
        "budget",
        "capability",
        "label",
        "policy",
        "service",
        "used",
        "versions",
    )

    def __init__(
        self,
        target: str,
        *,
        policy: RoutePolicy,
        registry: ServiceRegistry,
        ejections: Ejections,
        place: tuple[str, str],
        chance: random.Random,
    ) -> None:
        name, at, versions = target.partition("@")
        capability = name.removeprefix(CAPABILITY)
        self.service = name if capability == name else None
        self.capability = None if capability == name else capability
        self.label = target
        self.versions = version_range(versions) if at else None
        self._registry, self._ejections, self._place, self._chance = registry, ejections, place, chance
        self._candidates: list[Endpoint] = []
        self._revision = -1
        self._last: Sequence[Endpoint] = ()
        self._near: Sequence[Endpoint] = ()
        self.policy = policy
        self.budget = RetryBudget(policy.retry)
        self.breaker = Breaker(policy.breaker, chance) if policy.breaker is not None else None
        self._strategy: Strategy = strategy(policy.balancing, chance)
        self.used: dict[str, tuple[type, Any]] = {}

    def use(self, method: str, sent: object, expected: Any) -> None:
        """Remember that it was called, once."""
        if method not in self.used and len(self.used) < _MOST_USED:
            self.used[method] = type(sent), expected

    def adopt(self, policy: RoutePolicy) -> None:
        """Go by another policy from now on. What has been learnt stays where the policy is the same."""
        before, self.policy = self.policy, policy
        if policy.balancing != before.balancing:
            self._strategy = strategy(policy.balancing, self._chance)
        if policy.retry != before.retry:
            self.budget = RetryBudget(policy.retry)
        if policy.breaker is None:
            self.breaker = None
        elif self.breaker is None:
            self.breaker = Breaker(policy.breaker, self._chance)
        else:
            self.breaker.adopt(policy.breaker)
        self._last = self._near = ()

    def candidates(self) -> list[Endpoint]:
        """Those that run, ordered by id. Until something changes it is the same list: don't change it."""
        if self._revision != self._registry.revision:
            self._revision = self._registry.revision
            if self.service is not None:
                self._candidates = self._registry.candidates(self.service, self.versions)
            else:
                self._candidates = self._registry.candidates_by_capability(str(self.capability), self.versions)
        return self._candidates

    def choose(self, tried: Set[str], key: str | None, now: float) -> Endpoint | None:
        """Who gets the next attempt. None: nobody is known.

        Args:
            tried: those that had this call already; they are left out as long as there are others.
            key: the same one goes to the same instance, as long as that is there.
            now: monotonic seconds.
        """
        candidates: Sequence[Endpoint] = self._candidates if self._revision == self._registry.revision else self.candidates()
        if not candidates:
            return None
        if len(candidates) == 1 and not self._ejections.out:
            return candidates[0]
        if tried:
            candidates = [endpoint for endpoint in candidates if endpoint.id not in tried] or candidates
        if self._ejections.out and self.policy.ejection is not None:
            candidates = self._ejections.standing(candidates, self.policy.ejection.panic, now)
        if self.policy.prefer:
            candidates = self._nearest(candidates)
        if key is not None:
            return by_key(candidates, key)
        return self._strategy.choose(candidates)

    def option(self, method: str, name: str) -> object:
        """What the instances declare of a method; None if nobody is known."""
        candidates = self.candidates()
        return candidates[0].instance.methods.get(method, {}).get(name) if candidates else None

    def describe_others(self) -> str:
        """Which versions there are, for when none of those asked for is."""
        if self.versions is None:
            return ""
        known = (
            self._registry.instances(self.service) if self.service is not None else self._registry.offering(str(self.capability))
        )
        there = ", ".join(sorted({instance.version for instance in known}))
        return f"of versions {self.versions.text!r} there is none; there are: {there}" if there else ""

    def _nearest(self, candidates: Sequence[Endpoint]) -> Sequence[Endpoint]:
        if candidates is self._last:
            return self._near
        host, zone = self._place
        near: Sequence[Endpoint] = candidates
        for preference in self.policy.prefer:
            if preference == "host":
                found = [endpoint for endpoint in candidates if endpoint.instance.host == host]
            else:
                found = [endpoint for endpoint in candidates if endpoint.instance.zone == zone]
            if found:
                near = found
                break
        self._last, self._near = candidates, near
        return near
