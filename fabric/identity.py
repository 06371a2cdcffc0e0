"""Who this process is on the bus."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Self

from fabric.clock import Clock
from fabric.config import Settings
from fabric.contract import ServiceContract
from fabric.contracts.description import digest_of
from fabric.health import Health
from fabric.routing.instance import Instance, InstanceState
from fabric.wire.message import MessageIds

CONTRACT = "contract"
"""In the metadata of an announcement: the digest of what the instance offers; it tells the rest when it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The names that go into every message.

    Attributes:
        service: that it speaks as.
        instance: the id of this process, and the key of its inbox.
        incarnation: grows each time a process takes the same instance id.
        ids: of its messages.
        address: where answers to it are sent.
    """

    service: str
    instance: str
    incarnation: int
    ids: MessageIds = field(default_factory=MessageIds)
    address: str

    @classmethod
    def of(cls, service: str, settings: Settings, clock: Clock) -> Self:
        ids = MessageIds()
        return cls(
            service=service,
            instance=settings.instance_for(service),
            incarnation=int(clock.time() * 1e6),
            ids=ids,
            address=f"reply.{ids.next()}",
        )

    def announcement(self, contract: ServiceContract, settings: Settings, **changes: Any) -> Instance:
        """What others are told of it: that it runs and is healthy, unless ``changes`` say otherwise."""
        fields: dict[str, Any] = {
            "service": contract.name,
            "id": self.instance,
            "incarnation": self.incarnation,
            "state": InstanceState.RUNNING,
            "health": Health.ok(),
            "version": contract.version,
            "capabilities": contract.capabilities,
            "weight": settings.weight,
            "zone": settings.zone,
            "host": settings.host,
            "pid": os.getpid(),
            "methods": contract.announced,
        }
        fields |= changes
        fields["metadata"] = {**fields.get("metadata", {}), CONTRACT: digest_of(contract)}
        return Instance(**fields)
