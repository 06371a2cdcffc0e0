"""Who is there: the registry that has heard of every instance."""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from fabric import Health, Service, rpc
from fabric.clock import Clock, SystemClock
from fabric.health import HealthStatus
from fabric.routing.instance import Instance
from fabric.routing.registry import RegistryEvent
from fabric.transports.base import LinkState
from services.todo.fleet_contracts import InstanceFacts, RegistryChange, RegistrySnapshot, ServiceFacts, ServiceName


class RegistryService(Service):
    """Answers from what the instances announce of themselves; it keeps nothing that they don't renew.

    Calls don't need it: each hub hears of those that it calls. It is for whoever wants to see them all.
    """

    name, version = "service-registry", "1.0.0"
    capabilities = ("service-discovery",)

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._changes: deque[RegistryChange] = deque(maxlen=200)
        self._unwatch: Callable[[], None] = lambda: None

    async def start(self) -> None:
        self._unwatch = self.hub.registry.watch(self._changed)
        await self.hub.discover_all()

    async def stop(self) -> None:
        self._unwatch()

    async def check_health(self) -> Health:
        state = self.hub.transport.state
        if state is LinkState.CONNECTING or state is LinkState.RECONNECTING or state is LinkState.CLOSED:
            return Health.bad(f"hears nothing: the link to the broker is {state}")
        return Health.ok(instances=len(self.hub.registry), services=len(self.hub.registry.services))

    @rpc(idempotent=True, timeout=3.0)
    async def instances(self, service: ServiceName) -> list[InstanceFacts]:
        """All known instances of a service, whether they take calls or not, by id."""
        return [_facts(instance) for instance in self.hub.registry.instances(service)]

    @rpc(idempotent=True, timeout=3.0)
    async def services(self) -> list[ServiceFacts]:
        """Every service with an instance, by name."""
        return [_summary(name, self.hub.registry.instances(name)) for name in self.hub.registry.services]

    @rpc(idempotent=True, timeout=3.0)
    async def capability(self, name: ServiceName) -> list[InstanceFacts]:
        """The instances that offer a capability, by id."""
        return [_facts(instance) for instance in self.hub.registry.offering(name)]

    @rpc(idempotent=True, timeout=3.0)
    async def missing(self, dependencies: Annotated[tuple[ServiceName, ...], Field(max_length=500)]) -> list[str]:
        """Those of ``dependencies`` of which no healthy instance runs."""
        return list(self.hub.registry.missing(dependencies))

    @rpc(idempotent=True, timeout=3.0)
    async def snapshot(self) -> RegistrySnapshot:
        """Everything, with the last 200 changes, the newest last."""
        registry = self.hub.registry
        return RegistrySnapshot(
            at=self._now(),
            instances=tuple(_facts(instance) for instance in registry.instances()),
            services=tuple(_summary(name, registry.instances(name)) for name in registry.services),
            changes=tuple(self._changes),
        )

    def _changed(self, event: RegistryEvent) -> None:
        now, before = event.instance, event.before
        if before is not None and (before.state, before.health.status) == (now.state, now.health.status):
            return
        self._changes.append(
            RegistryChange(
                at=self._now(),
                happening=event.happening,
                service=now.service,
                instance=now.id,
                state=now.state,
                reason=event.reason or now.health.reason,
            )
        )

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock.time(), datetime.UTC)


def _facts(instance: Instance) -> InstanceFacts:
    return InstanceFacts(
        service=instance.service,
        id=instance.id,
        state=instance.state,
        health=instance.health.status,
        reason=instance.health.reason,
        version=instance.version,
        capabilities=instance.capabilities,
        load=instance.load,
        host=instance.host,
        pid=instance.pid,
        methods=tuple(sorted(instance.methods)),
        metadata=dict(instance.metadata),
    )


def _summary(service: str, instances: tuple[Instance, ...]) -> ServiceFacts:
    running = [instance for instance in instances if instance.takes_calls]
    return ServiceFacts(
        service=service,
        instances=len(instances),
        running=len(running),
        healthy=sum(instance.health.status is HealthStatus.YES for instance in running),
        versions=tuple(sorted({instance.version for instance in instances})),
        capabilities=tuple(sorted({name for instance in instances for name in instance.capabilities})),
    )
