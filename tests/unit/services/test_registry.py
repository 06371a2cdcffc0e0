"""The registry service: it has heard of everybody, and of nobody longer than they are there."""

from __future__ import annotations

import asyncio

import pytest

from fabric import Hub
from fabric.routing.registry import Happening
from fabric.testing import Bench
from services.todo.cache import CacheManager
from services.todo.nlp import NlpService
from services.todo.registry import RegistryService


@pytest.fixture
async def service(bench: Bench) -> RegistryService:
    await bench.start(CacheManager(), instance="cache-1")
    registry = RegistryService()
    await bench.start(registry, instance="registry-1")
    return registry


@pytest.fixture
async def registry(service: RegistryService, hub: Hub) -> RegistryService:
    return hub.proxy(RegistryService)


async def _known(service: RegistryService, instance: str, *, there: bool = True) -> None:
    """Returns once ``service`` has heard that the instance takes calls, or that it is gone."""
    came = asyncio.Event()
    unwatch = service.hub.registry.watch(lambda _: came.set())
    async with asyncio.timeout(10):
        while True:
            known = service.hub.registry.get(instance)
            if (known is not None and known.instance.takes_calls) == there:
                break
            came.clear()
            await came.wait()
    unwatch()


async def test_it_hears_of_those_who_were_there_before_and_who_come_later(
    bench: Bench, service: RegistryService, registry: RegistryService
) -> None:
    """Both are listed with version, capabilities and methods, by service and by capability."""
    await bench.start(NlpService(), instance="nlp-1")
    await _known(service, "cache-1")
    await _known(service, "nlp-1")
    services = {facts.service: facts for facts in await registry.services()}
    assert {"cache-manager", "nlp-service"} <= services.keys()
    assert (services["nlp-service"].running, services["nlp-service"].capabilities) == (1, ("text-analysis",))
    (nlp,) = await registry.capability("text-analysis")
    assert (nlp.id, nlp.state, nlp.health, nlp.methods) == ("nlp-1", "running", "yes", ("analyze",))
    assert [facts.id for facts in await registry.instances("cache-manager")] == ["cache-1"]
    assert await registry.instances("nobody") == []
    assert await registry.missing(("cache-manager", "nobody")) == ["nobody"]


async def test_who_leaves_is_forgotten_and_noted(bench: Bench, service: RegistryService, registry: RegistryService) -> None:
    """After an orderly end the instance is in no list, and the changes say what became of it."""
    await bench.start(NlpService(), instance="nlp-1")
    await _known(service, "nlp-1")
    await bench.stop("nlp-1")
    await _known(service, "nlp-1", there=False)
    snapshot = await registry.snapshot()
    assert "nlp-1" not in {facts.id for facts in snapshot.instances}
    happenings = [change.happening for change in snapshot.changes if change.instance == "nlp-1"]
    assert happenings[0] == Happening.JOINED
    assert happenings[-1] == Happening.LEFT


async def test_without_a_link_it_is_not_healthy(bench: Bench, service: RegistryService) -> None:
    """S12: a registry that hears nothing does not say that all is well."""
    assert (await service.check_health()).is_ok
    lost = asyncio.Event()
    service.hub.transport.watch(lambda event: lost.set())
    bench.network.go_down()
    async with asyncio.timeout(10):
        await lost.wait()
    health = await service.check_health()
    assert not health.is_ok
    assert "hears nothing" in health.reason
