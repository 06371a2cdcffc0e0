"""A fleet on each kind of broker, and the harm that can be done to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from fabric.config import Settings
from fabric.hub import Hub
from fabric.service import Service
from fabric.testing import Bench
from fabric.transports.base import Transport
from tests.contract.backends import Backend
from tests.contract.conftest import backend, kind, socket_path

__all__ = ["backend", "fleet", "kind", "socket_path"]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Services and clients in this process on one broker of the suite."""

    bench: Bench
    backend: Backend

    async def start(self, service: Service) -> Hub:
        """Its hub, when it runs."""
        await self.bench.start(service)
        return service.hub

    async def kill(self, hub: Hub) -> None:
        """Its connection goes without a word to anybody; the broker drops what was its own."""
        await hub.transport.aclose()

    async def cut(self, hub: Hub) -> None:
        await self.backend.cut(hub.transport)


@asynccontextmanager
async def fleet_on(backend: Backend, **settings: object) -> AsyncIterator[Fleet]:
    values = {"heartbeat_interval": 0.5, "call_timeout": 10.0, "drain_timeout": 2.0, "connect_timeout": 15.0}
    made = Settings.model_validate(values | {"namespace": backend.topology.namespace} | settings)

    async def link(_: Settings) -> Transport:
        return await backend.transport(connect=False)

    async with Bench(settings=made, transport=link) as bench:
        yield Fleet(bench, backend)


@pytest.fixture
async def fleet(backend: Backend) -> AsyncIterator[Fleet]:
    """On memory, embedded and RabbitMQ in turn."""
    async with fleet_on(backend) as made:
        yield made


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*abilities): skipped on a broker that lacks one of them")
