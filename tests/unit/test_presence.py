"""Being found and finding others: announcements, questions, heartbeats, silence, reconnects."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fabric import Service, presence, rpc
from fabric.config import Settings
from fabric.errors import CallError, NoInstance
from fabric.health import Health
from fabric.hub import Hub
from fabric.routing.instance import InstanceState
from fabric.routing.registry import Happening, RegistryEvent
from fabric.testing import Bench
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology
from fabric.wire import codec
from fabric.wire.message import MessageType, Priority, ServiceMessage
from tests.puppet import Puppet, eventually, turns

FAST = Settings(heartbeat_interval=0.05, drain_timeout=1.0)


class Clerk(Service):
    name = "clerk"
    capabilities = ("filing", "typing")

    @rpc()
    async def who(self) -> str:
        return self.hub.instance


async def until(hub: Hub, service: str, count: int) -> None:
    """Wait until a hub knows that many instances."""
    await eventually(lambda: len(hub.registry.instances(service)) == count)


async def test_a_service_is_found_by_name_and_by_each_capability() -> None:
    """One instance is called by its name and by what it offers, without anybody having been told of it."""
    async with Bench() as bench:
        clerk = Clerk()
        await bench.start(clerk)
        hub = await bench.hub()
        assert await hub.call("clerk", "who") == clerk.hub.instance
        assert await hub.call_by_capability("filing", "who") == clerk.hub.instance
        assert await hub.call_by_capability("typing", "who") == clerk.hub.instance


async def test_a_hub_hears_only_of_what_it_calls() -> None:
    """Interest-based discovery: announcements of a service that nobody called do not reach a hub."""
    async with Bench(settings=FAST) as bench:
        await bench.start(Clerk())
        hub = await bench.hub()
        async with Puppet(bench.network, "other", "other-0") as other:
            other.announce()
            await hub.call("clerk", "who")
            other.announce()
            await turns()
            assert hub.registry.services == ("clerk",)
            await hub.discover_all()
            await until(hub, "other", 0)
            other.announce()
            await until(hub, "other", 1)


async def test_discover_all_in_an_empty_fleet_finds_nobody() -> None:
    """Asking for everybody where nobody serves is not an error, and later arrivals are heard of."""
    async with Bench(settings=FAST) as bench:
        hub = await bench.hub()
        await hub.discover_all()
        assert hub.registry.services == ()
        await bench.start(Clerk())
        await until(hub, "clerk", 1)


async def test_an_instance_that_takes_no_calls_is_named_as_the_reason() -> None:
    """Where somebody is there and not ready the error says who and in which state, and says so at once."""
    async with Bench() as bench, Puppet(bench.network, "clerk", "clerk-0", state=InstanceState.INITIALIZING):
        hub = await bench.hub()
        with pytest.raises(NoInstance, match="clerk-0 is initializing") as caught:
            await hub.call("clerk", "who")
        assert caught.value.elapsed < 0.5


async def test_an_instance_that_is_about_to_run_is_waited_for() -> None:
    """Whoever was started because a service is ready may call it before he has heard so himself: the call waits for the news."""
    async with Bench() as bench, Puppet(bench.network, "clerk", "clerk-0", state=InstanceState.STARTING) as clerk:
        hub = await bench.hub()
        call = asyncio.create_task(hub.call("clerk", "who", timeout=5.0))
        await until(hub, "clerk", 1)
        await turns(20)
        assert not call.done()
        clerk.announce(state=InstanceState.RUNNING)
        clerk.answer(await clerk.next(), "clerk-0")
        assert await call == "clerk-0"


async def test_an_instance_that_does_not_get_to_run_is_not_waited_for_until_the_timeout() -> None:
    """After a second the call ends, and the error names the instance and its state."""
    async with Bench() as bench, Puppet(bench.network, "clerk", "clerk-0", state=InstanceState.STARTING):
        hub = await bench.hub()
        with pytest.raises(NoInstance, match="clerk-0 is starting"):
            await asyncio.wait_for(hub.call("clerk", "who", timeout=30.0), 10.0)


async def test_somebody_who_is_bound_and_says_nothing_is_waited_for_a_second() -> None:
    """A questioned instance that does not answer is not waited for until the timeout."""
    async with Bench() as bench, Puppet(bench.network, "clerk", "clerk-0") as mute:
        mute.silent = True
        hub = await bench.hub()
        with pytest.raises(NoInstance, match="does not answer") as caught:
            await hub.call("clerk", "who", timeout=30.0)
        assert caught.value.elapsed < 3.0


async def test_a_late_announcement_ends_the_wait() -> None:
    """A caller that waits for an answer to its question takes the announcement that comes meanwhile."""
    async with Bench() as bench, Puppet(bench.network, "clerk", "clerk-0") as puppet:
        puppet.silent = True
        hub = await bench.hub()
        call = asyncio.create_task(hub.call("clerk", "who"))
        await turns()
        puppet.announce()
        puppet.answer(await puppet.next(), "me")
        assert await call == "me"


async def test_a_goodbye_takes_an_instance_out_at_once() -> None:
    """Stopped the orderly way an instance is gone from the registries of those who call it before it is gone from the bus."""
    async with Bench() as bench:
        first, second = Clerk(), Clerk()
        await bench.start(first)
        await bench.start(second)
        hub = await bench.hub()
        await hub.find("clerk")
        await until(hub, "clerk", 2)
        events: list[RegistryEvent] = []
        hub.registry.watch(events.append)
        await bench.stop(first.hub.instance)
        assert [instance.id for instance in hub.registry.instances("clerk")] == [second.hub.instance]
        assert [event.happening for event in events if event.instance.id == first.hub.instance] == [Happening.LEFT]
        for _ in range(4):
            assert await hub.call("clerk", "who") == second.hub.instance


async def test_a_served_object_without_an_agent_says_goodbye_too() -> None:
    """A hub that serves by itself announces that it stops, drains and leaves when its context ends."""
    async with Bench() as bench:
        hub = await bench.hub()
        async with Hub.connect("clerk", transport=MemoryTransport(bench.network, Topology())) as serving:
            clerk = Clerk()
            clerk.hub = serving
            served = await serving.serve(clerk)
            await served.open_doors()
            assert await hub.call("clerk", "who") == serving.instance
        assert hub.registry.instances("clerk") == ()
        with pytest.raises(NoInstance):
            await hub.call("clerk", "who")


async def test_a_killed_instance_is_dropped_within_the_detectors_bound() -> None:
    """M6 (nameko, kontiki): an instance that dies without a word is missed by its heartbeats, proved gone by the broker, and
    dropped, without anybody having called it."""
    async with Bench(settings=FAST) as bench:
        clerk = Clerk()
        await bench.start(clerk)
        hub = await bench.hub()
        await hub.call("clerk", "who")
        bench.kill(clerk.hub.instance)
        await until(hub, "clerk", 0)


async def test_silence_alone_drops_nobody() -> None:
    """M21 (moleculer#891): an instance that announces nothing while its inbox is there is suspected, passed over, and kept;
    heard of again it is as good as the others."""
    async with Bench(settings=FAST) as bench, Puppet(bench.network, "clerk", "clerk-0") as puppet:
        hub = await bench.hub()
        await hub.find("clerk")
        await until(hub, "clerk", 1)
        await eventually(lambda: hub.registry.endpoints()[0].suspect)
        await puppet.next(MessageType.PROBE)
        assert len(hub.registry.instances("clerk")) == 1
        call = asyncio.create_task(hub.call("clerk", "who"))
        puppet.answer(await puppet.next(), "busy, not dead")
        assert await call == "busy, not dead"
        puppet.announce()
        await turns()
        assert not hub.registry.endpoints()[0].suspect


async def test_after_a_reconnect_everybody_is_found_again() -> None:
    """M1 (aio-pika#231): a broker restart forgets all bindings and questions; callers and callees meet again by themselves."""
    async with Bench(settings=FAST) as bench:
        clerk = Clerk()
        await bench.start(clerk)
        hub = await bench.hub()
        await hub.call("clerk", "who")
        bench.network.restart()
        assert await hub.call("clerk", "who") == clerk.hub.instance


async def test_what_came_up_while_the_link_was_down_is_heard_of() -> None:
    """An instance that joined during our outage is known after it, because we ask again."""
    async with Bench(settings=Settings(heartbeat_interval=60.0)) as bench:
        await bench.start(Clerk())
        hub = await bench.hub()
        await hub.call("clerk", "who")
        link = hub.transport
        assert isinstance(link, MemoryTransport)
        bench.network.partition(link)
        await bench.start(Clerk())
        bench.network.heal()
        await until(hub, "clerk", 2)


@pytest.mark.parametrize(
    "payload",
    [None, 7, [], {"service": "clerk"}, {"service": "clerk", "id": "x" * 300, "incarnation": "many"}, {"id": {"$": 1}}],
)
async def test_a_hostile_announcement_is_refused(payload: Any, caplog: pytest.LogCaptureFixture) -> None:
    """M31 (dramatiq#848): what is not an announcement changes nothing and breaks nothing."""
    caplog.set_level(logging.CRITICAL)
    async with Bench() as bench, Puppet(bench.network, "clerk", "clerk-0") as puppet:
        hub = await bench.hub()
        await hub.find("clerk")
        await until(hub, "clerk", 1)
        message = ServiceMessage("1", MessageType.BROADCAST, "clerk", "clerk-0", "", "fabric.up", payload)
        for body in (codec.encode(message), b"\xc1"):
            puppet.transport.post(puppet.topology.discovery, "up.service.clerk", body, priority=Priority.CRITICAL)
        puppet.announce(weight=5)
        await eventually(lambda: hub.registry.instances("clerk")[0].weight == 5)


async def test_a_description_that_fails_once_does_not_make_the_instance_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Metadata that can't be sent is logged at each heartbeat; once it can be, the instance is heard of again."""
    caplog.set_level(logging.CRITICAL)
    async with Bench(settings=FAST) as bench:
        clerk = Clerk()
        await bench.start(clerk)
        hub = await bench.hub()
        await hub.call("clerk", "who")
        clerk.metadata["bad"] = object()
        await eventually(lambda: hub.registry.endpoints()[0].suspect)
        clerk.metadata["bad"] = "good"
        await eventually(lambda: hub.registry.instances("clerk")[0].metadata.get("bad") == "good")


async def test_a_watcher_that_raises_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A user's callback with a bug costs nobody else their news, and no call."""
    caplog.set_level(logging.CRITICAL)
    async with Bench() as bench:
        hub = await bench.hub()
        seen: list[RegistryEvent] = []

        def buggy(event: RegistryEvent) -> None:
            raise RuntimeError("a bug")

        hub.registry.watch(buggy)
        hub.registry.watch(seen.append)
        clerk = Clerk()
        await bench.start(clerk)
        assert await hub.call("clerk", "who") == clerk.hub.instance
        assert [event.happening for event in seen] == [Happening.JOINED]


async def test_find_lists_those_that_take_no_calls_too() -> None:
    """hub.find answers who is there, with state and health, whether it takes calls or not."""
    async with Bench() as bench, Puppet(bench.network, "clerk", "c-0", state=InstanceState.FAILED, health=Health.bad("disk")):
        hub = await bench.hub()
        (instance,) = await hub.find("clerk")
        assert (instance.state, instance.health.reason) == (InstanceState.FAILED, "disk")
        assert await hub.find("nobody") == ()


async def test_made_up_names_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """M28 (moleculer#705): a caller of ever new names listens for a bounded number of them, and goes on hearing of those who are
    there."""
    monkeypatch.setattr(presence, "MOST_INTERESTS", 20)
    async with Bench(settings=FAST) as bench:
        clerk = Clerk()
        await bench.start(clerk)
        hub = await bench.hub()
        await hub.call("clerk", "who")
        for n in range(60):
            with pytest.raises(NoInstance):
                await hub.call(f"made-up-{n}", "who")
        assert len(hub._presence._interests) <= 20
        await bench.stop(clerk.hub.instance)
        await until(hub, "clerk", 0)
        again = Clerk()
        await bench.start(again)
        assert await hub.call("clerk", "who") == again.hub.instance


async def test_a_closed_hub_finds_nobody() -> None:
    """Asking a closed hub ends at once and without an error of asyncio's."""
    async with MemoryNetwork() as network:
        async with Hub.connect("x", transport=MemoryTransport(network, Topology())) as hub:
            pass
        assert await hub.find("clerk") == ()
        with pytest.raises(CallError, match="closed"):
            await hub.call("clerk", "who")
