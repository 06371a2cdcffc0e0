"""Calls, events and broadcasts mean the same on every broker."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pydantic import BaseModel

from fabric import Priority, Service, ServiceError, on_broadcast, on_event, rpc
from fabric.errors import (
    DeadlineExceeded,
    ExpiredInQueue,
    NoInstance,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ValidationFailed,
)
from fabric.routing.retry import RetryPolicy
from tests.integration.conftest import Fleet
from tests.puppet import eventually, keep_trying

TRIES = 3


class Sum(BaseModel):
    total: int
    by: str


class Counter(Service):
    name = "counter"
    capabilities = ("counting",)

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = self.cancelled = 0
        self.events: list[Any] = []
        self.told: list[Any] = []
        self.fail = 0

    @rpc(idempotent=True)
    async def add(self, a: int, b: int = 1) -> Sum:
        return Sum(total=a + b, by=self.hub.instance)

    @rpc()
    async def echo(self, value: Any) -> Any:
        return value

    @rpc()
    async def fails(self) -> None:
        raise ServiceError("no", code="counter.no")

    @rpc(concurrency=1, queue=1)
    async def wait(self) -> str:
        self.running += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return self.hub.instance

    @on_event("tick.*", retry_delays=(0.05,), max_attempts=3)
    async def tick(self, event: dict[str, Any]) -> None:
        if self.fail:
            self.fail -= 1
            raise RuntimeError("not today")
        self.events.append(event["n"])

    @on_broadcast("#")
    async def hear(self, event: Any) -> None:
        self.told.append(event)


async def test_calls_by_name_capability_and_proxy(fleet: Fleet) -> None:
    """Two instances share the calls; answers are typed, whichever way the service is reached."""
    a, b = await fleet.start(Counter()), await fleet.start(Counter())
    hub = await fleet.bench.hub()
    await hub.find("counter")
    await eventually(lambda: len(hub.registry.instances("counter")) == 2)  # the first to answer would get all
    sums = await asyncio.gather(*(hub.call("counter", "add", {"a": n}, returns=Sum) for n in range(200)))
    assert [sum.total for sum in sums] == [n + 1 for n in range(200)]
    assert {sum.by for sum in sums} == {a.instance, b.instance}
    assert (await hub.call_by_capability("counting", "add", {"a": 1}, returns=Sum)).total == 2
    assert (await hub.proxy(Counter).add(4, b=5)).total == 9


async def test_every_outcome_is_typed(fleet: Fleet) -> None:
    """What ends a call has the same class on every broker, and none waits for a timeout that need not."""
    counter = Counter()
    await fleet.start(counter)
    hub = await fleet.bench.hub(retry=RetryPolicy(attempts=1))
    with pytest.raises(NoInstance):
        await hub.call("nobody", "x", timeout=5.0)
    with pytest.raises(NoInstance):
        await hub.call_by_capability("nothing", "x", timeout=5.0)
    with pytest.raises(RemoteError) as failed:
        await hub.call("counter", "fails")
    assert failed.value.code == "counter.no"
    with pytest.raises(ValidationFailed):
        await hub.call("counter", "add", {"a": "x"})
    with pytest.raises(ValidationFailed):
        await hub.call("counter", "subtract")
    with pytest.raises(PayloadTooLarge):
        await hub.call("counter", "echo", {"value": b"x" * 9_000_000})
    running = asyncio.create_task(hub.call("counter", "wait"))
    await eventually(lambda: counter.running == 1)
    waiting = asyncio.create_task(hub.call("counter", "wait", timeout=2.0))
    await eventually(lambda: counter.hub._served is not None and counter.hub._served.load == 2)
    with pytest.raises(Overloaded):
        await hub.call("counter", "wait")
    with pytest.raises((ExpiredInQueue, DeadlineExceeded)):
        await waiting
    counter.gate.set()
    assert await running == counter.hub.instance
    assert hub.pending == 0


async def test_giving_up_stops_the_handler(fleet: Fleet) -> None:
    """M19 (moleculer#904): a caller that times out or is cancelled cancels the handler within 200 ms."""
    counter = Counter()
    await fleet.start(counter)
    hub = await fleet.bench.hub()
    await hub.find("counter")
    clock = asyncio.get_running_loop().time
    times: list[tuple[float, float]] = []
    for _ in range(TRIES):  # a busy machine may hold up one, but not all
        with pytest.raises(DeadlineExceeded):
            await hub.call("counter", "wait", timeout=0.5)
        began = clock()
        await eventually(lambda: counter.running == 0)
        timed_out = clock() - began
        call = asyncio.create_task(hub.call("counter", "wait"))
        await eventually(lambda: counter.running == 1)
        call.cancel()
        began = clock()
        await eventually(lambda: counter.running == 0)
        times.append((timed_out, clock() - began))
    assert [min(each) < 0.2 for each in zip(*times, strict=True)] == [True, True]
    assert counter.cancelled == 2 * TRIES


async def test_payloads_of_all_sizes_survive(fleet: Fleet) -> None:
    """From nothing to four megabytes, alone and together in batches: what is sent is what is answered."""
    await fleet.start(Counter())
    hub = await fleet.bench.hub()
    chance = random.Random(7)
    payloads = [None, b"", "", {}, {"a": [1, 2.5, None, True, "ü"]}, b"x" * 4_000_000]
    payloads += [chance.randbytes(chance.choice((10, 1000, 100_000))) for _ in range(60)]
    answers = await asyncio.gather(*(hub.call("counter", "echo", {"value": value}, timeout=30.0) for value in payloads))
    assert answers == payloads


async def test_every_priority_is_answered(fleet: Fleet) -> None:
    """Each class of priority gets through and comes back."""
    await fleet.start(Counter())
    hub = await fleet.bench.hub()
    for priority in Priority:
        assert await hub.call("counter", "echo", {"value": priority.name}, priority=priority) == priority.name


async def test_a_critical_call_passes_thousands_of_low_ones(fleet: Fleet) -> None:
    """M12 (celery#8025, #5127): with 5,000 low calls waiting at the callee a critical one is answered within the time of a few
    handlers, and while critical ones flood it low ones still get their floor."""

    class Queue(Service):
        name = "queue"

        def __init__(self) -> None:
            self.order: list[str] = []
            self.gate = asyncio.Event()

        @rpc(concurrency=1, queue=20_000)
        async def pass_by(self, id: str) -> None:
            await self.gate.wait()
            self.order.append(id)
            await asyncio.sleep(0.0005)

    queue = Queue()
    await fleet.start(queue)
    hub = await fleet.bench.hub()
    await hub.find("queue")

    async def call(id: str, priority: Priority) -> None:
        await hub.call("queue", "pass_by", {"id": id}, priority=priority, timeout=60.0)

    low = [asyncio.create_task(call(f"low{n}", Priority.LOW)) for n in range(5000)]
    await eventually(lambda: queue.hub._served is not None and queue.hub._served.load == 5000)
    queue.gate.set()
    await eventually(lambda: len(queue.order) > 10)
    started = len(queue.order)
    await call("critical", Priority.CRITICAL)
    assert queue.order.index("critical") - started < 250, "those that ran while it was on its way"
    await asyncio.gather(*(call(f"flood{n}", Priority.CRITICAL) for n in range(500)))
    flood = queue.order[queue.order.index("flood0") : queue.order.index("flood499")]
    assert sum(id.startswith("low") for id in flood) >= len(flood) // 16 - 1
    for task in low:
        task.cancel()
    await asyncio.gather(*low, return_exceptions=True)
    await eventually(lambda: queue.hub._served is not None and queue.hub._served.load == 0)


async def test_events_come_at_least_once_and_poison_is_kept(fleet: Fleet) -> None:
    """M26 (faststream#1603): events reach one instance each; a failing one comes again, and in the end is a dead letter that
    can be replayed."""
    counters = [Counter(), Counter()]
    for counter in counters:
        await fleet.start(counter)
    hub = await fleet.bench.hub()
    await asyncio.gather(*(hub.publish("tick.a", {"n": n}) for n in range(50)))
    await eventually(lambda: sorted(n for counter in counters for n in counter.events) == list(range(50)))
    for counter in counters:
        counter.fail = 3
    await hub.publish("tick.b", {"n": 99})
    letters = hub.dead_letters("counter")

    async def buried() -> bool:
        return bool(await letters.list())

    await keep_trying(buried, within=10)
    found = await letters.list()
    assert found[0].attempts == 3
    assert "not today" in found[0].reason
    for counter in counters:
        counter.fail = 0
    assert await letters.replay(found[0].id)
    await eventually(lambda: any(99 in counter.events for counter in counters))


async def test_broadcasts_reach_everybody(fleet: Fleet) -> None:
    """Every live instance gets a broadcast once."""
    counters = [Counter() for _ in range(3)]
    for counter in counters:
        await fleet.start(counter)
    hub = await fleet.bench.hub()
    assert hub.broadcast("news", {"n": 1})
    await eventually(lambda: all(counter.told == [{"n": 1}] for counter in counters))


async def test_stopping_one_of_two_under_load_loses_nothing(fleet: Fleet) -> None:
    """M25 (faststream#1648): an instance is stopped in the middle of a thousand calls: none fails, and it ends in time."""
    first, _ = await fleet.start(Counter()), await fleet.start(Counter())
    hub = await fleet.bench.hub()
    await hub.find("counter")

    async def worker(n: int) -> list[Any]:
        return [await hub.call("counter", "add", {"a": n}, idempotent=False, returns=Sum) for _ in range(50)]

    workers = [asyncio.create_task(worker(n)) for n in range(20)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await fleet.bench.stop(first.instance)
    sums = [sum for sums in await asyncio.gather(*workers) for sum in sums]
    assert len(sums) == 1000
