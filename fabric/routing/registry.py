"""Who is there: the instances that this process has heard of, kept current by their announcements."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from fabric.health import HealthStatus
from fabric.routing.breaker import Breaker
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.latency import PeakEwma
from fabric.routing.versions import Range

_log = logging.getLogger("fabric.registry")

_REMEMBERED: Final = 1000
_NEWS: Final = attrgetter("service", "state", "health.status", "version", "capabilities", "weight", "zone", "methods", "metadata")
"""What watchers are told of. Load and reasons change with every announcement."""


class Endpoint:
    """An instance as a caller sees it: what it announced, and what this caller knows better.

    Attributes:
        instance: its newest announcement.
        pending: calls of this process that it has not answered.
        others: requests that it has of other callers, as far as it said.
        seen: when it was last heard of, by this process's monotonic clock.
        suspect: announcements are overdue; used only when there is nobody better.
        latency: how long its answers take lately.
        breaker: how its calls ended lately; None where nobody counts.
    """

    __slots__ = ("breaker", "id", "instance", "latency", "others", "pending", "seen", "suspect")

    def __init__(self, instance: Instance, seen: float) -> None:
        self.instance, self.id = instance, instance.id
        self.pending = self.others = 0
        self.seen = seen
        self.suspect = False
        self.latency = PeakEwma()
        self.breaker: Breaker | None = None

    def reported(self, load: int) -> None:
        """It says that it has so many requests running and waiting, ours among them."""
        self.others = max(0, load - self.pending)

    def __repr__(self) -> str:
        return f"Endpoint({self.instance.id!r}, {self.instance.state}, pending={self.pending})"


class Happening(enum.StrEnum):
    JOINED = "joined"
    CHANGED = "changed"
    LEFT = "left"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEvent:
    """``before`` is None when it joined; ``instance`` is its last known form when it left or was lost."""

    happening: Happening
    instance: Instance
    before: Instance | None = None
    reason: str = ""


class ServiceRegistry:
    """The instances by service and by capability. No I/O: announcements are put in, changes come out.

    A new incarnation of an id replaces the old one; anything older than what is known is ignored, also after the
    instance has left or was lost.

    Attributes:
        revision: another number whenever any of its answers may have changed.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._endpoints: dict[str, Endpoint] = {}
        self._services: dict[str, dict[str, Endpoint]] = {}
        self._capabilities: dict[str, dict[str, Endpoint]] = {}
        self._departed: dict[str, Instance] = {}
        self._callable: dict[tuple[str, str, Range | None], list[Endpoint]] = {}
        self._watchers: dict[object, Callable[[RegistryEvent], None]] = {}

    def __len__(self) -> int:
        return len(self._endpoints)

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self._services))

    @property
    def capabilities(self) -> tuple[str, ...]:
        return tuple(sorted(self._capabilities))

    def get(self, instance: str) -> Endpoint | None:
        return self._endpoints.get(instance)

    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._endpoints.values())

    def instances(self, service: str | None = None) -> tuple[Instance, ...]:
        """All known instances, of one service or of all, in order of their ids."""
        known = self._endpoints if service is None else self._services.get(service, {})
        return tuple(known[id].instance for id in sorted(known))

    def offering(self, capability: str) -> tuple[Instance, ...]:
        known = self._capabilities.get(capability, {})
        return tuple(known[id].instance for id in sorted(known))

    def candidates(self, service: str, versions: Range | None = None) -> list[Endpoint]:
        """Endpoints of a service, of these versions, that a call may go to; see ``_usable``. Until something changes it is the
        same list: don't change it."""
        return self._cached(("service", service, versions), self._services.get(service))

    def candidates_by_capability(self, capability: str, versions: Range | None = None) -> list[Endpoint]:
        return self._cached(("capability", capability, versions), self._capabilities.get(capability))

    def missing(self, dependencies: Iterable[str]) -> tuple[str, ...]:
        """The services among ``dependencies`` of which no healthy instance runs."""
        return tuple(
            name
            for name in dependencies
            if not any(
                e.instance.takes_calls and e.instance.health.status is not HealthStatus.NO
                for e in self._services.get(name, {}).values()
            )
        )

    def watch(self, watcher: Callable[[RegistryEvent], None]) -> Callable[[], None]:
        """Call ``watcher`` at each change; the answer ends that."""
        place = object()
        self._watchers[place] = watcher

        def unwatch() -> None:
            self._watchers.pop(place, None)

        return unwatch

    def apply(self, instance: Instance, now: float) -> RegistryEvent | None:
        """Take an announcement. Returns what it changed (of two changes the last), or None when it is old, a repetition or
        says nothing new."""
        known = self._endpoints.get(instance.id)
        last = known.instance if known is not None else self._departed.get(instance.id)
        if last is not None and not instance.newer_than(last):
            return None
        if known is None:
            if instance.is_gone:
                self._remember(instance)
                return None
            return self._join(instance, now)
        if instance.incarnation > known.instance.incarnation:
            lost = self._lose(known, "a new incarnation took its id")
            if instance.is_gone:
                self._remember(instance)
                return lost
            return self._join(instance, now)
        known.seen = now
        if instance.is_gone:
            return self._drop(known, instance, Happening.LEFT, "said goodbye")
        return self._renew(known, instance)

    def lose(self, instance: str, reason: str) -> RegistryEvent | None:
        """It is known to be gone, without a word of its own. It counts again once it announces itself anew."""
        known = self._endpoints.get(instance)
        if known is None:
            return None
        return self._lose(known, reason)

    def suspect(self, instance: str) -> None:
        """Prefer others until it is heard of again."""
        known = self._endpoints.get(instance)
        if known is not None and not known.suspect:
            known.suspect = True
            self._choose_anew()

    def overdue(self, before: float) -> list[Endpoint]:
        """Endpoints last heard of before that moment."""
        return [endpoint for endpoint in self._endpoints.values() if endpoint.seen < before]

    def _join(self, instance: Instance, now: float) -> RegistryEvent:
        endpoint = Endpoint(instance, now)
        self._departed.pop(instance.id, None)
        self._endpoints[instance.id] = endpoint
        self._index(endpoint)
        return self._tell(RegistryEvent(happening=Happening.JOINED, instance=instance))

    def _renew(self, known: Endpoint, instance: Instance) -> RegistryEvent | None:
        before, was_suspect = known.instance, known.suspect
        known.suspect = False
        known.reported(instance.load)
        if (before.service, before.capabilities) != (instance.service, instance.capabilities):
            self._unindex(known)
            known.instance = instance
            self._index(known)
        else:
            known.instance = instance
        if not was_suspect and _NEWS(before) == _NEWS(instance):
            return None
        self._choose_anew()
        return self._tell(RegistryEvent(happening=Happening.CHANGED, instance=instance, before=before))

    def _lose(self, known: Endpoint, reason: str) -> RegistryEvent:
        return self._drop(known, known.instance.gone(InstanceState.FAILED, reason), Happening.LOST, reason)

    def _drop(self, known: Endpoint, last: Instance, happening: Happening, reason: str) -> RegistryEvent:
        before = known.instance
        del self._endpoints[known.id]
        self._unindex(known)
        known.instance = last
        self._remember(last)
        return self._tell(RegistryEvent(happening=happening, instance=last, before=before, reason=reason))

    def _remember(self, last: Instance) -> None:
        """What is older than this is no news of that instance, however late it arrives."""
        self._departed.pop(last.id, None)
        self._departed[last.id] = last
        while len(self._departed) > _REMEMBERED:
            self._departed.pop(next(iter(self._departed)))

    def _index(self, endpoint: Endpoint) -> None:
        self._services.setdefault(endpoint.instance.service, {})[endpoint.id] = endpoint
        for capability in endpoint.instance.capabilities:
            self._capabilities.setdefault(capability, {})[endpoint.id] = endpoint
        self._choose_anew()

    def _unindex(self, endpoint: Endpoint) -> None:
        for index, names in (
            (self._services, (endpoint.instance.service,)),
            (self._capabilities, endpoint.instance.capabilities),
        ):
            for name in names:
                index.get(name, {}).pop(endpoint.id, None)
                if not index.get(name):
                    index.pop(name, None)
        self._choose_anew()

    def _choose_anew(self) -> None:
        self._callable.clear()
        self.revision += 1

    def _tell(self, event: RegistryEvent) -> RegistryEvent:
        for place, watcher in tuple(self._watchers.items()):
            if place not in self._watchers:
                continue
            try:
                watcher(event)
            except Exception:
                _log.exception("a watcher of the registry failed at %s %s", event.happening, event.instance.id)
        return event

    def _cached(self, key: tuple[str, str, Range | None], known: dict[str, Endpoint] | None) -> list[Endpoint]:
        found = self._callable.get(key)
        if found is None:
            versions = key[2]
            every = [known[id] for id in sorted(known)] if known else []
            fitting = [e for e in every if versions is None or versions.holds(e.instance.version)]
            found = self._callable[key] = _usable(fitting)
        return found


def _usable(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Those that run, without the unhealthy and the silent ones as long as others are left (panic: some answer may be
    better than none)."""
    running = [endpoint for endpoint in endpoints if endpoint.instance.takes_calls]
    healthy = [endpoint for endpoint in running if endpoint.instance.health.status is not HealthStatus.NO]
    heard = [endpoint for endpoint in healthy if not endpoint.suspect]
    return heard or healthy or running
