"""The bench that users test their services on."""

from __future__ import annotations

import asyncio

import pytest

from fabric import Service, rpc
from fabric.config import Settings
from fabric.errors import InstanceLost, NoInstance
from fabric.routing.instance import InstanceState
from fabric.testing import Bench
from fabric.transports.base import LinkState, Transport
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology
from tests.puppet import LIMIT, eventually


class Echo(Service):
    name = "echo"

    def __init__(self) -> None:
        self.calls = 0
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True

    @rpc()
    async def say(self, text: str) -> str:
        self.calls += 1
        return text

    @rpc()
    async def hang(self) -> None:
        self.calls += 1
        await asyncio.Event().wait()


async def test_a_started_service_can_be_called() -> None:
    """start returns when the service runs and is healthy; a hub of the bench reaches it."""
    async with Bench() as bench:
        agent = await bench.start(Echo())
        assert agent.state is InstanceState.RUNNING
        hub = await bench.hub()
        assert await hub.call("echo", "say", {"text": "hello"}) == "hello"


async def test_two_benches_share_nothing() -> None:
    """Each bench has a network of its own."""
    async with Bench() as one, Bench() as other:
        await one.start(Echo())
        with pytest.raises(NoInstance):
            await (await other.hub()).call("echo", "say", {"text": "x"})


async def test_benches_may_share_a_network() -> None:
    """A network that is handed in is shared, and left open for its owner."""
    async with MemoryNetwork() as network:
        async with Bench(network=network) as one, Bench(network=network) as other:
            await one.start(Echo())
            assert await (await other.hub()).call("echo", "say", {"text": "x"}) == "x"
        link = MemoryTransport(network, Topology())
        await link.connect(timeout=LIMIT)
        await link.aclose()


async def test_closing_the_bench_stops_everything_in_order() -> None:
    """Instances are stopped the orderly way, the last one first, and no link is left."""
    order: list[str] = []

    class Noted(Echo):
        async def stop(self) -> None:
            order.append(self.hub.instance)

    async with Bench() as bench:
        for name in ("a", "b", "c"):
            await bench.start(Noted(), instance=name)
        await bench.hub()
        network = bench.network
    assert order == ["c", "b", "a"]
    assert network.links == 0


async def test_a_service_that_does_not_start_leaves_nothing() -> None:
    """start raises what the service raised, and its link is gone."""

    class Broken(Echo):
        async def start(self) -> None:
            raise RuntimeError("broken")

    async with Bench() as bench:
        with pytest.raises(RuntimeError, match="broken"):
            await bench.start(Broken())
        assert bench.network.links == 0


async def test_stop_is_orderly_and_kill_is_not() -> None:
    """A stopped instance releases what it holds; a killed one says nothing, and its callers learn that it is lost."""
    async with Bench() as bench:
        stopped, killed = Echo(), Echo()
        await bench.start(stopped)
        await bench.start(killed)
        hub = await bench.hub()
        await bench.stop(stopped.hub.instance)
        assert stopped.stopped
        call = asyncio.create_task(hub.call("echo", "hang", timeout=30.0))
        await eventually(lambda: killed.calls == 1)
        bench.kill(killed.hub.instance)
        with pytest.raises(InstanceLost):
            await call
        assert not killed.stopped


async def test_cut_breaks_a_link_that_comes_back() -> None:
    """A cut link is used again without anybody's doing."""
    async with Bench() as bench:
        echo = Echo()
        await bench.start(echo)
        hub = await bench.hub()
        bench.cut(hub.instance)
        assert hub.transport.state is LinkState.RECONNECTING
        assert await hub.call("echo", "say", {"text": "again"}) == "again"
        assert hub.transport.epoch == 2


async def test_a_managed_service_waits_for_its_command() -> None:
    """managed=True leaves the service registered and not started."""
    async with Bench() as bench:
        agent = await bench.start(Echo(), managed=True)
        assert agent.state is InstanceState.REGISTERED


async def test_the_same_seed_gives_the_same_chance() -> None:
    """Two benches with one seed hand the same random numbers to their hubs, in order."""

    async def drawn(seed: int) -> list[float]:
        async with Bench(seed=seed) as bench:
            hubs = [await bench.hub(), await bench.hub()]
            return [hub._caller._chance.random() for hub in hubs]

    assert await drawn(1) == await drawn(1)
    assert await drawn(1) != await drawn(2)


async def test_a_bench_runs_on_another_broker() -> None:
    """transport= puts the same fleet on whatever makes links; harming it is then the broker's own affair."""
    made: list[Transport] = []

    class Other(MemoryTransport):
        pass

    async with MemoryNetwork() as network:

        async def link(settings: Settings) -> Transport:
            made.append(Other(network, Topology(settings.namespace)))
            return made[-1]

        async with Bench(transport=link) as bench:
            await bench.start(Echo())
            assert await (await bench.hub()).call("echo", "say", {"text": "x"}) == "x"
            assert bench.network.links == 0
            assert network.links == len(made) == 2
