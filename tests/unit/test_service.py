"""What a team writes: names that are checked, a contract from the type hints, and a life of start, health and stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fabric import ConfigurationError, Health, Service, rpc
from fabric.errors import NoInstance
from fabric.routing.instance import InstanceState
from fabric.testing import Bench
from tests.puppet import eventually


class Shop(Service):
    """Notes what is done to it."""

    name, version = "shop", "3.1.4"
    capabilities = ("selling",)

    def __init__(self, *, fail: bool = False) -> None:
        self.fail = fail
        self.life: list[str] = []

    async def start(self) -> None:
        self.life.append("start")
        self.metadata["shelf"] = 7
        if self.fail:
            raise RuntimeError("no key to the shop")

    async def stop(self) -> None:
        self.life.append("stop")

    @rpc()
    async def sell(self) -> str:
        self.life.append("sell")
        await asyncio.sleep(0.05)
        self.life.append("sold")
        return "thing"


@pytest.mark.parametrize("name", ["", "a.b", "two words", "-dash", "x" * 101, "stern*"])
def test_a_name_that_cannot_be_a_key_is_refused_when_the_service_is_made(name: str) -> None:
    """A service name becomes part of routing keys: what can't be one is a ConfigurationError that names the class."""
    kind = type("Bad", (Service,), {"name": name})
    with pytest.raises(ConfigurationError, match="Bad"):
        kind()


def test_a_capability_that_cannot_be_a_key_is_refused() -> None:
    """So is a capability."""
    kind = type("Bad", (Service,), {"name": "bad", "capabilities": ("fine", "not fine")})
    with pytest.raises(ConfigurationError, match="capability 'not fine'"):
        kind()


def test_a_method_without_type_hints_is_refused_when_the_service_is_made() -> None:
    """The type hints are the contract, so a parameter without one can't be offered."""

    class Vague(Service):
        name = "vague"

        @rpc()
        async def guess(self, what) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(ConfigurationError, match="'what' needs a type hint"):
        Vague()


def test_each_instance_has_its_own_metadata() -> None:
    """Two services of one class in one process do not share what they announce."""
    first, second = Shop(), Shop()
    first.metadata["a"] = 1
    assert second.metadata == {}


async def test_a_service_that_says_nothing_is_healthy_and_starts_at_once() -> None:
    """start, stop and check_health have defaults that make the smallest service a healthy one."""

    class Small(Service):
        name = "small"

    async with Bench() as bench:
        agent = await bench.start(Small())
        assert agent.state is InstanceState.RUNNING
        assert agent.health == Health.ok()


async def test_it_announces_what_it_is() -> None:
    """Version, capabilities, metadata set in start, and each method's options are known to those who call it."""
    async with Bench() as bench:
        shop = Shop()
        await bench.start(shop)
        hub = await bench.hub()
        (instance,) = await hub.find("shop")
        assert (instance.version, instance.capabilities, instance.metadata["shelf"]) == ("3.1.4", ("selling",), 7)
        assert instance.methods["sell"]["idempotent"] is False
        assert instance.takes_calls


async def test_what_runs_ends_before_stop_is_called() -> None:
    """stop comes after the last handler: nothing is taken from under one that runs."""
    async with Bench() as bench:
        shop = Shop()
        await bench.start(shop)
        hub = await bench.hub()
        call = asyncio.create_task(hub.call("shop", "sell"))
        await eventually(lambda: "sell" in shop.life)
        await bench.stop(shop.hub.instance)
        assert await call == "thing"
        assert shop.life == ["start", "sell", "sold", "stop"]


async def test_a_failed_start_is_released_and_reaches_nobody() -> None:
    """start raises: stop is called for what it took half-way, the error reaches whoever started it, nobody can call it."""
    async with Bench() as bench:
        shop: Any = Shop(fail=True)
        with pytest.raises(RuntimeError, match="no key"):
            await bench.start(shop)
        assert shop.life == ["start", "stop"]
        with pytest.raises(NoInstance):
            await (await bench.hub()).call("shop", "sell")
