"""Leaving out instances that do worse than their peers, as long as enough others are left.

After Envoy's outlier detection and panic threshold, with one difference: an ejected instance whose time has come gets the
next call as a probe, so it comes back whatever strategy chooses among the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from fabric.routing.breaker import CLOSED, Breaker
from fabric.routing.ejection_policy import EjectionPolicy
from fabric.routing.registry import Endpoint, ServiceRegistry

ENOUGH: Final = 5
"""Answers of an instance before its latency is compared."""
FAILED_LIKE: Final = 1.0
"""Seconds that a failure counts for as latency at least: failing fast must not look attractive."""
COMPARE_EVERY: Final = 0.25
"""Seconds between comparisons of the instances of one service."""


class Ejections:
    """The instances that one hub leaves out, of all services. Times in monotonic seconds of whoever calls.

    Args:
        policy: of a service; None: none of its instances is ever left out.

    Attributes:
        out: who is left out, or tried again; changed here only.
    """

    def __init__(
        self, registry: ServiceRegistry, policy: Callable[[str], EjectionPolicy | None], *, chance: random.Random
    ) -> None:
        self._registry, self._policy, self._chance = registry, policy, chance
        self.out: dict[str, Endpoint] = {}
        self._compare_at: dict[str, float] = {}
        self.panics = 0

    def ejected(self) -> tuple[str, ...]:
        """The instances that are left out, or tried again."""
        self._forget_gone()
        return tuple(sorted(self.out))

    def standing(self, candidates: Sequence[Endpoint], panic: float, now: float) -> Sequence[Endpoint]:
        """Those of ``candidates`` that a call may go to now: one that is due to be tried, else those that are not left out,
        else, in panic, all."""
        self._forget_gone()
        standing = []
        for endpoint in candidates:
            if endpoint.id in self.out and endpoint.breaker is not None:
                if endpoint.breaker.permits(now):
                    return (endpoint,)
            else:
                standing.append(endpoint)
        if len(standing) < panic * len(candidates) or not standing:
            self.panics += 1
            return candidates
        return standing

    def acquire(self, endpoint: Endpoint, now: float) -> int:
        """A permit for one call, to be settled. 0 in panic: then how it ends changes nothing."""
        breaker = endpoint.breaker
        if breaker is None:
            policy = self._policy(endpoint.instance.service)
            if policy is None:
                return 0
            breaker = endpoint.breaker = Breaker(policy.breaker, self._chance)
        return breaker.acquire(now)

    def settle(self, endpoint: Endpoint, permit: int, now: float, *, ok: bool | None, seconds: float) -> None:
        """How the call ended; see ``Breaker.settle``."""
        if ok is not None:
            endpoint.latency.observe(seconds if ok else max(seconds, FAILED_LIKE), now)
        if (breaker := endpoint.breaker) is not None:
            self._compare(endpoint.instance.service, now)
            breaker.settle(permit, now, ok=ok, seconds=seconds)
            self._sort(endpoint, breaker)

    def settle_good(self, endpoint: Endpoint, permit: int, now: float, seconds: Sequence[float]) -> None:
        """Several calls with that permit ended well at the same time; see ``Breaker.settle_good``."""
        endpoint.latency.observe(max(seconds), now, len(seconds))
        if (breaker := endpoint.breaker) is not None:
            self._compare(endpoint.instance.service, now)
            breaker.settle_good(permit, now, seconds)
            self._sort(endpoint, breaker)

    def _sort(self, endpoint: Endpoint, breaker: Breaker) -> None:
        if breaker.state is not CLOSED:
            self.out[endpoint.id] = endpoint
        elif self.out:
            self.out.pop(endpoint.id, None)

    def isolate(self, instance: str) -> bool:
        """Leave it out until ``restore``. False: it is not known."""
        endpoint = self._registry.get(instance)
        if endpoint is None:
            return False
        if endpoint.breaker is None:
            policy = self._policy(endpoint.instance.service) or EjectionPolicy()
            endpoint.breaker = Breaker(policy.breaker, self._chance)
        endpoint.breaker.isolate()
        self.out[instance] = endpoint
        return True

    def restore(self, instance: str) -> bool:
        """Call it again. False: it is not left out."""
        endpoint = self.out.pop(instance, None)
        if endpoint is None or endpoint.breaker is None:
            return False
        endpoint.breaker.restore()
        return True

    def adopt(self) -> None:
        """The policies were replaced: who is known goes by the new ones. Who is left out stays so, unless nobody may be."""
        for endpoint in self._registry.endpoints():
            policy = self._policy(endpoint.instance.service)
            if policy is None:
                endpoint.breaker = None
                self.out.pop(endpoint.id, None)
            elif endpoint.breaker is not None:
                endpoint.breaker.adopt(policy.breaker)
        self._compare_at.clear()

    def _compare(self, service: str, now: float) -> None:
        """Say anew what is slow for each instance of a service, by what its peers take, unless that was done just now."""
        if now < self._compare_at.get(service, 0.0):
            return
        self._compare_at[service] = now + COMPARE_EVERY
        policy = self._policy(service)
        if policy is None or not policy.slower_than:
            return
        known = [e for e in self._registry.candidates(service) if e.latency.count >= ENOUGH]
        values = [endpoint.latency.value(now) for endpoint in known]
        for place, endpoint in enumerate(known):
            peers = values[:place] + values[place + 1 :]
            if endpoint.breaker is not None and peers:
                endpoint.breaker.slow_from = max(policy.slow_from, policy.slower_than * median(peers))

    def _forget_gone(self) -> None:
        for id, endpoint in list(self.out.items()):
            if self._registry.get(id) is not endpoint:
                del self.out[id]
