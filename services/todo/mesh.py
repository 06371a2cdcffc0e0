"""Hands out how traffic to each service is to be treated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, ServiceError, rpc
from fabric.follower import REVISION
from services.todo.fleet_contracts import POLICY_CHANGED, PolicyChange, PolicySet, ServiceName, TrafficPolicy
from services.todo.policies import RevisionConflict, changed, load, policy_of, save


class MeshSettings(BaseSettings):
    """From the environment. The policies are in ``policies.json`` in ``data_dir`` (``FABRIC_DATA_DIR``)."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    data_dir: Path = Field(default=Path(".fabric/todo/data"), validation_alias=AliasChoices("FABRIC_DATA_DIR", "data_dir"))


class ServiceMesh(Service):
    """Policies by service: validated when set, numbered, kept in a file, and broadcast at each change.

    A change is on disk before it is told. Hubs that follow this service (``FABRIC_POLICIES_FROM``) see the revision in its
    announcement and ask for the policies when it grows. One instance of it, because two would number on their own.
    """

    name, version = "service-mesh", "1.0.0"
    capabilities = ("traffic-policies",)
    dependencies = ("service-registry",)

    def __init__(self, settings: MeshSettings | None = None) -> None:
        self._path = (settings or MeshSettings()).data_dir / "policies.json"
        self._policies = PolicySet()
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        self._policies = await asyncio.to_thread(load, self._path)
        self.metadata[REVISION] = self._policies.revision

    async def check_health(self) -> Health:
        return Health.ok(revision=self._policies.revision, policies=len(self._policies.policies))

    @rpc(idempotent=True, timeout=3.0)
    async def policy(self, service: ServiceName) -> TrafficPolicy:
        """What was set for ``service``, or the default."""
        return policy_of(self._policies, service)

    @rpc(idempotent=True, timeout=3.0)
    async def policies(self) -> PolicySet:
        return self._policies

    @rpc(idempotent=True, timeout=3.0)
    async def traffic_policies(self) -> dict[str, Any]:
        """All of them, as hubs read them."""
        return self._policies.to_plain()

    @rpc(timeout=5.0)
    async def set_policy(self, change: PolicyChange) -> TrafficPolicy:
        """Replace the policy of a service as a whole.

        Raises:
            ServiceError: ``mesh.conflict`` or ``mesh.not-saved``; nothing was changed.
        """
        async with self._turn:
            try:
                policies, made = changed(self._policies, change)
                await asyncio.to_thread(save, self._path, policies)
            except RevisionConflict as error:
                raise ServiceError(
                    f"{error}; read it again and decide anew",
                    code="mesh.conflict",
                    details={"service": error.service, "expected": error.expected, "actual": error.actual},
                ) from error
            except OSError as error:
                raise ServiceError(f"{self._path} can't be written: {error}", code="mesh.not-saved", retryable=True) from error
            self._policies = policies
        self.metadata[REVISION] = policies.revision
        self.hub.announce()
        self.hub.broadcast(POLICY_CHANGED, made)
        return made
