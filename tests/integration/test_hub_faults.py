"""Links cut, queues deleted, brokers restarted, blocked or gone: every call ends typed, and everything comes back by itself."""

from __future__ import annotations

import asyncio
from collections import Counter as Count
from typing import Any

import pytest

from fabric import Priority, Service, on_event, rpc
from fabric.errors import CallError, CallNotSent, InstanceLost, NoInstance
from fabric.hub import Hub
from fabric.transports.base import LinkState
from tests.contract.backends import Ability
from tests.integration.conftest import Fleet
from tests.puppet import eventually, keep_trying


class Mill(Service):
    name = "mill"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.ran: Count[str] = Count()
        self.events: list[Any] = []

    @rpc(idempotent=True)
    async def grind(self, id: str) -> str:
        self.ran[id] += 1
        await asyncio.sleep(0.01)
        return id

    @rpc()
    async def once(self, id: str) -> str:
        self.ran[id] += 1
        await self.gate.wait()
        return id

    @on_event("grain")
    async def grain(self, event: int) -> None:
        self.events.append(event)
        await self.gate.wait()


async def outcome(call: Any) -> Any:
    try:
        return await call
    except CallError as error:
        return type(error).__name__


async def grinds(hub: Hub, calls: int = 1) -> bool:
    """Whether so many calls in a row work."""
    wanted = [f"after{n}" for n in range(calls)]
    return [await outcome(hub.call("mill", "grind", {"id": id}, timeout=1.0)) for id in wanted] == wanted


async def test_an_unknown_service_then_a_hundred_good_calls(fleet: Fleet) -> None:
    """M10 (FastStream's reply lock), M5 (MassTransit#2229): a failed first call is typed in a round trip and spoils nothing."""
    await fleet.start(Mill())
    hub = await fleet.bench.hub()
    with pytest.raises(NoInstance) as caught:
        await hub.call("nobody", "x")
    assert caught.value.elapsed < 2.0
    assert await asyncio.gather(*(hub.call("mill", "grind", {"id": str(n)}) for n in range(100))) == [str(n) for n in range(100)]


async def test_all_instances_killed_with_calls_under_way(fleet: Fleet) -> None:
    """M6 (nameko, kontiki): what they had ends as InstanceLost within seconds, what comes after as NoInstance at once."""
    mills = [Mill(), Mill()]
    hubs = [await fleet.start(mill) for mill in mills]
    hub = await fleet.bench.hub()
    await hub.find("mill")
    calls = [asyncio.create_task(outcome(hub.call("mill", "once", {"id": str(n)}, timeout=60.0))) for n in range(10)]
    await eventually(lambda: sum(mill.ran.total() for mill in mills) == 10)
    for each in hubs:
        await fleet.kill(each)
    async with asyncio.timeout(10):
        assert set(await asyncio.gather(*calls)) == {"InstanceLost"}
    assert await outcome(hub.call("mill", "once", {"id": "late"}, timeout=60.0)) == "NoInstance"
    assert sum(mill.ran.total() for mill in mills) == 10


async def test_one_of_three_killed_costs_idempotent_callers_nothing(fleet: Fleet) -> None:
    """M7 (moleculer#399): calls go on under load while one instance dies; not one idempotent call fails."""
    mills = [Mill() for _ in range(3)]
    hubs = [await fleet.start(mill) for mill in mills]
    hub = await fleet.bench.hub()
    await hub.find("mill")

    async def worker(n: int) -> list[str]:
        return [await hub.call("mill", "grind", {"id": f"{n}-{k}"}) for k in range(20)]

    workers = [asyncio.create_task(worker(n)) for n in range(30)]
    await eventually(lambda: mills[0].ran.total() >= 30)
    await fleet.kill(hubs[0])
    answers = await asyncio.gather(*workers)
    assert answers == [[f"{n}-{k}" for k in range(20)] for n in range(30)]


async def test_a_killed_caller_harms_nobody(fleet: Fleet) -> None:
    """A caller dies with calls under way: their handlers run to their end, once, the answers are dropped, others are served."""
    mill = Mill()
    await fleet.start(mill)
    caller, other = await fleet.bench.hub(), await fleet.bench.hub()
    calls = [asyncio.create_task(outcome(caller.call("mill", "once", {"id": str(n)}))) for n in range(10)]
    await eventually(lambda: mill.ran.total() == 10)
    await fleet.kill(caller)
    mill.gate.set()
    await eventually(lambda: mill.hub._served is not None and mill.hub._served._dispatcher.load == 0)
    assert mill.ran.total() == 10
    assert await other.call("mill", "grind", {"id": "after"}) == "after"
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.needs(Ability.CUT)
async def test_the_callers_link_is_cut_while_handlers_run(fleet: Fleet) -> None:
    """M22 (rabbot#47): the caller reconnects while its handlers run: each call has its one result, each handler ran once."""
    mill = Mill()
    await fleet.start(mill)
    hub = await fleet.bench.hub()
    calls = [asyncio.create_task(hub.call("mill", "once", {"id": str(n)})) for n in range(20)]
    await eventually(lambda: mill.ran.total() == 20)
    await fleet.cut(hub)
    await eventually(lambda: hub.transport.epoch == 2)
    mill.gate.set()
    assert await asyncio.gather(*calls) == [str(n) for n in range(20)]
    assert set(mill.ran.values()) == {1}


@pytest.mark.needs(Ability.CUT)
async def test_the_callees_link_is_cut_while_handlers_run(fleet: Fleet) -> None:
    """M22 (taskiq-aio-pika#46): the callee reconnects while its handlers run: each call ends with its value, or as lost if its
    inbox was seen to be gone, and each handler ran once."""
    mill = Mill()
    served = await fleet.start(mill)
    hub = await fleet.bench.hub()
    calls = [asyncio.create_task(outcome(hub.call("mill", "once", {"id": str(n)}))) for n in range(20)]
    await eventually(lambda: mill.ran.total() == 20)
    await fleet.cut(served)
    mill.gate.set()
    async with asyncio.timeout(15):
        answers = await asyncio.gather(*calls)
    assert all(answer in (str(n), "InstanceLost") for n, answer in enumerate(answers))
    assert set(mill.ran.values()) == {1}
    assert await hub.call("mill", "grind", {"id": "after"}, timeout=10.0) == "after"


@pytest.mark.needs(Ability.CUT)
async def test_an_event_is_not_run_twice_by_a_reconnect(fleet: Fleet) -> None:
    """M22 (taskiq-aio-pika#46): the link breaks while an event is handled: it comes again, is known, and is acknowledged once."""
    mill = Mill()
    served = await fleet.start(mill)
    hub = await fleet.bench.hub()
    await hub.publish("grain", 1)
    await eventually(lambda: mill.events == [1])
    for epoch in (2, 3):
        await fleet.cut(served)
        await eventually(lambda epoch=epoch: served.transport.epoch == epoch)  # type: ignore[misc]
    await asyncio.sleep(0.1)
    mill.gate.set()
    await hub.publish("grain", 2)
    await eventually(lambda: 2 in mill.events)
    assert mill.events == [1, 2]
    assert await hub.dead_letters("mill").list() == []


@pytest.mark.needs(Ability.RESTART)
async def test_a_broker_restart_under_load(fleet: Fleet) -> None:
    """M1 (aio-pika#231, faststream#2758): with a hundred calls under way the broker restarts: every call ends, typed or with
    its value, before its deadline; then all consumers are back and nothing is left hanging."""
    mills = [Mill(), Mill()]
    for mill in mills:
        await fleet.start(mill)
    hub = await fleet.bench.hub()
    await hub.find("mill")
    running = [asyncio.create_task(outcome(hub.call("mill", "once", {"id": f"r{n}"}, timeout=30.0))) for n in range(50)]
    await eventually(lambda: sum(mill.ran.total() for mill in mills) == 50)
    load = [asyncio.create_task(outcome(hub.call("mill", "grind", {"id": f"g{n}"}, timeout=30.0))) for n in range(50)]
    restarting = asyncio.create_task(fleet.backend.restart())
    for mill in mills:
        mill.gate.set()
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*running, *load)
        await restarting
    allowed = {"InstanceLost", "LinkLost", "NoInstance", "CallNotSent"}
    assert all(answer in allowed or answer[0] in "rg" for answer in answers)
    assert all(mill.ran[f"r{n}"] <= 1 for mill in mills for n in range(50)), "what may not run twice did not"
    await keep_trying(lambda: grinds(hub, 10), within=30)
    assert hub.pending == 0


@pytest.mark.needs(Ability.UNREACHABLE)
async def test_with_the_broker_down_nothing_stale_runs(fleet: Fleet) -> None:
    """M8 (MassTransit#3502, faststream#1579): calls end at their timeout as not sent, and never run when the broker is back."""
    mill = Mill()
    await fleet.start(mill)
    hub = await fleet.bench.hub()
    assert await hub.call("mill", "grind", {"id": "before"}) == "before"
    await fleet.backend.go_down()
    await eventually(lambda: hub.transport.state is LinkState.RECONNECTING)
    began = asyncio.get_running_loop().time()
    calls = [hub.call("mill", "grind", {"id": f"stale{n}"}, timeout=1.0) for n in range(10)]
    answers = await asyncio.gather(*map(outcome, calls))
    assert asyncio.get_running_loop().time() - began < 1.1
    assert set(answers) == {CallNotSent.__name__}
    await fleet.backend.come_up()
    await keep_trying(lambda: grinds(hub), within=30)
    assert not [id for id in mill.ran if id.startswith("stale")]


@pytest.mark.needs(Ability.DELETE_QUEUE)
@pytest.mark.parametrize("victim", ["inbox", "replies", "discovery", "events"])
async def test_a_deleted_queue_is_there_again(fleet: Fleet, victim: str) -> None:
    """M4 (aiormq#116, aio-pika#334): any queue that is consumed is deleted: within 5 s calls and events work as before, and
    what was lost with it ends typed."""
    mill = Mill()
    served = await fleet.start(mill)
    hub = await fleet.bench.hub()
    assert await hub.call("mill", "grind", {"id": "before"}) == "before"
    call = asyncio.create_task(outcome(hub.call("mill", "once", {"id": "during"}, timeout=30.0)))
    await eventually(lambda: mill.ran["during"] == 1)
    await fleet.backend.delete_queue(_queue(victim, fleet, served, hub))
    mill.gate.set()
    async with asyncio.timeout(5):
        assert await call in ("during", InstanceLost.__name__, "LinkLost")

    async def tells() -> bool:
        await hub.publish("grain", 7)
        return 7 in mill.events

    await keep_trying(lambda: grinds(hub), within=5)
    await keep_trying(tells, within=5)


def _queue(victim: str, fleet: Fleet, served: Hub, hub: Hub) -> str:
    match victim:
        case "inbox":
            assert served._served is not None
            return served._served._inbox.address
        case "replies":
            return hub._mailbox.queue
        case "discovery":
            assert served._presence._consumer is not None
            return served._presence._consumer.address
        case _:
            return f"{fleet.backend.topology.namespace}.events.mill.default"


@pytest.mark.needs(Ability.BLOCK)
async def test_a_blocked_broker_sheds_low_and_keeps_critical(fleet: Fleet) -> None:
    """M11 (RabbitMQ alarms): blocked is visible, low is shed at once, critical waits and is answered, all by itself."""
    await fleet.start(Mill())
    hub = await fleet.bench.hub()
    assert await hub.call("mill", "grind", {"id": "before"}) == "before"
    await fleet.backend.block()
    poke = asyncio.create_task(outcome(hub.call("mill", "grind", {"id": "poke"}, timeout=20.0)))
    await eventually(lambda: hub.transport.state is LinkState.BLOCKED)
    critical = asyncio.create_task(hub.call("mill", "grind", {"id": "critical"}, priority=Priority.CRITICAL, timeout=20.0))
    with pytest.raises(CallNotSent) as caught:
        await hub.call("mill", "grind", {"id": "low"}, priority=Priority.LOW, timeout=20.0)
    assert caught.value.elapsed < 2.0
    await fleet.backend.unblock()
    assert await critical == "critical"
    await poke
