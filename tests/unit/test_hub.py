"""The hub as its users see it: typed calls, proxies, nested deadlines, serving, and an orderly end."""

from __future__ import annotations

import asyncio
import datetime
import time
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from fabric import Service, ServiceError, current_call, rpc
from fabric.config import Settings
from fabric.errors import (
    CallNotSent,
    ConfigurationError,
    ConnectionLost,
    DeadlineExceeded,
    NoInstance,
    RemoteError,
    ValidationFailed,
)
from fabric.hub import Hub
from fabric.routing.retry import RetryPolicy
from fabric.testing import Bench
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology
from fabric.wire.message import Priority
from tests.puppet import eventually, turns


class Ask(BaseModel):
    to: str
    n: int = 1


class Told(BaseModel):
    text: str
    at: datetime.datetime


@dataclass
class Point:
    x: int
    y: int = 0


class Oracle(Service):
    name, version = "oracle", "2.1.0"
    capabilities = ("telling",)

    def __init__(self) -> None:
        self.cancelled = 0

    @rpc(idempotent=True, aliases=("tellMe",))
    async def tell(self, ask: Ask) -> Told:
        return Told(text=ask.to * ask.n, at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))

    @rpc()
    async def add(self, a: int, b: int = 2) -> int:
        return a + b

    @rpc()
    async def move(self, point: Point) -> Point:
        return Point(point.x + 1, point.y)

    @rpc()
    async def many(self, ids: list[uuid.UUID]) -> dict[str, Point]:
        return {str(id): Point(n) for n, id in enumerate(ids)}

    @rpc()
    async def nothing(self) -> None: ...

    @rpc()
    async def refuse(self) -> None:
        raise ServiceError("the stars are wrong", code="oracle.stars", details={"stars": 3})

    @rpc(timeout=0.1)
    async def brood(self) -> None:
        await asyncio.sleep(60)

    @rpc()
    async def muse(self) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Relay(Service):
    """Calls the next one down, and says how much time that one was given."""

    name = "relay"

    @rpc()
    async def down(self, depth: int) -> float:
        call = current_call()
        assert call is not None
        assert call.deadline is not None
        if depth == 0:
            return call.deadline - self.hub.clock.time()
        await asyncio.sleep(0.05)
        return await self.hub.call("relay", "down", {"depth": depth - 1}, returns=float, timeout=30.0)

    @rpc()
    async def hang(self, depth: int) -> None:
        if depth == 0:
            await asyncio.sleep(60)
        await self.hub.call("relay", "hang", {"depth": depth - 1})


async def test_calls_are_typed_on_both_sides() -> None:
    """Models, dataclasses, ids and times travel by their types; without returns the answer is plain data."""
    async with Bench() as bench:
        await bench.start(Oracle())
        hub = await bench.hub()
        told = await hub.call("oracle", "tell", Ask(to="ab", n=2), returns=Told)
        assert told == Told(text="abab", at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        assert await hub.call("oracle", "tellMe", {"to": "x"}) == {"text": "x", "at": "2026-01-01T00:00:00Z"}
        assert await hub.call("oracle", "move", Point(1, 2), returns=Point) == Point(2, 2)
        assert await hub.call("oracle", "move", Point(1, 2), returns=Point | None) == Point(2, 2)
        id = uuid.uuid4()
        assert await hub.call("oracle", "many", {"ids": [id]}, returns=dict[str, Point]) == {str(id): Point(0)}
        assert await hub.call("oracle", "nothing") is None
        assert await hub.call_by_capability("telling", "add", {"a": 1}, returns=int) == 3


async def test_an_answer_of_the_wrong_type_is_refused_by_the_caller() -> None:
    """returns= is checked: what does not fit is ValidationFailed, says that the method ran, and shows no values."""
    async with Bench() as bench:
        await bench.start(Oracle())
        hub = await bench.hub()
        with pytest.raises(ValidationFailed, match="not a Point") as caught:
            await hub.call("oracle", "add", {"a": 40}, returns=Point)
        assert caught.value.executed is True
        assert caught.value.errors
        assert "42" not in str(caught.value.errors)


async def test_a_proxy_has_the_services_own_methods() -> None:
    """A proxy takes arguments as the method does, by place and by name, and gives results of the declared type."""
    async with Bench() as bench:
        await bench.start(Oracle())
        oracle = (await bench.hub()).proxy(Oracle)
        assert (await oracle.tell(Ask(to="z"))).text == "z"
        assert await oracle.add(1) == 3
        assert await oracle.add(1, b=5) == 6
        assert await oracle.add(b=1, a=1) == 2
        assert await oracle.move(Point(1)) == Point(2)
        await oracle.nothing()


async def test_a_proxy_refuses_before_it_sends() -> None:
    """Arguments that do not fit never leave the process; what is not an rpc is not there."""
    async with Bench() as bench:
        oracle: Any = (await bench.hub()).proxy(Oracle)
        misfits: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
            ("add", ("many",), {}),
            ("add", (1, 2, 3), {}),
            ("add", (), {"a": 1, "c": 2}),
            ("add", (), {}),
            ("tell", ({"n": 1},), {}),
            ("tell", (Ask(to="x"), Ask(to="y")), {}),
        ]
        for method, args, kwargs in misfits:
            with pytest.raises(ValidationFailed) as caught:
                await getattr(oracle, method)(*args, **kwargs)
            assert caught.value.executed is False
        with pytest.raises(AttributeError, match="@rpc"):
            _ = oracle.start


async def test_a_services_own_failure_reaches_its_caller() -> None:
    """ServiceError arrives as RemoteError with its code and details."""
    async with Bench() as bench:
        await bench.start(Oracle())
        with pytest.raises(RemoteError, match="stars are wrong") as caught:
            await (await bench.hub()).call("oracle", "refuse")
        error = caught.value
        assert (error.type, error.code, error.details, error.executed) == ("ServiceError", "oracle.stars", {"stars": 3}, True)


async def test_the_methods_own_time_limit_counts_without_one_of_the_callers() -> None:
    """A declared timeout is what a call without one gets; a caller's own goes before it."""
    async with Bench() as bench:
        await bench.start(Oracle())
        hub = await bench.hub()
        await hub.find("oracle")
        with pytest.raises(DeadlineExceeded) as caught:
            await hub.call("oracle", "brood")
        assert caught.value.elapsed < 1.0
        with pytest.raises(DeadlineExceeded) as caught:
            await hub.call("oracle", "brood", timeout=0.3)
        assert 0.3 <= caught.value.elapsed < 1.0


async def test_nested_calls_see_what_is_left_of_the_deadline() -> None:
    """M20 (MassTransit#6158): A calls B calls C with a second in all, each asking for thirty: C sees what is left of it."""
    async with Bench() as bench:
        await bench.start(Relay())
        left = await (await bench.hub()).call("relay", "down", {"depth": 3}, returns=float, timeout=1.0)
        assert 0.0 < left <= 0.85


async def test_giving_up_reaches_the_last_of_a_chain() -> None:
    """M19 (moleculer#904): the first caller gives up, and handlers three calls down are cancelled, each by its own caller."""
    async with Bench() as bench:
        relay = Relay()
        await bench.start(relay)
        hub = await bench.hub()
        call = asyncio.create_task(hub.call("relay", "hang", {"depth": 3}))
        assert relay.hub._served is not None
        served = relay.hub._served
        await eventually(lambda: served.load == 4)
        began = time.monotonic()
        call.cancel()
        await eventually(lambda: served.load == 0)
        assert time.monotonic() - began < 0.2
        assert relay.hub.pending == 0


async def test_time_used_up_before_a_nested_call_sends_nothing() -> None:
    """A handler that has used all of its time can't start another call with it."""

    class Late(Service):
        name = "late"

        def __init__(self) -> None:
            self.outcome: Exception | None = None

        @rpc()
        async def work(self) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                try:
                    await self.hub.call("late", "work")
                except CallNotSent as error:
                    self.outcome = error

    async with Bench() as bench:
        late = Late()
        await bench.start(late)
        hub = await bench.hub()
        await hub.find("late")
        with pytest.raises(DeadlineExceeded):
            await hub.call("late", "work", timeout=0.2)
        await eventually(lambda: late.outcome is not None)


async def test_a_busy_handler_is_not_dead() -> None:
    """M21 (moleculer#891): a handler that burns the CPU, and with it its process's loop, is waited for: its answer counts."""

    class Burner(Service):
        name = "burner"

        @rpc()
        async def burn(self) -> str:
            time.sleep(1.0)  # noqa: ASYNC251  it blocks the loop, that is the point
            return "ashes"

    async with Bench(settings=Settings(heartbeat_interval=0.05)) as bench:
        await bench.start(Burner())
        assert await (await bench.hub()).call("burner", "burn", timeout=10.0) == "ashes"


async def test_one_slow_callee_does_not_hold_up_the_others() -> None:
    """M9 (faststream#1318): a thousand calls at once, those to a hanging service among them: the others all come back."""
    async with Bench() as bench:
        await bench.start(Oracle())
        await bench.start(Relay())
        hub = await bench.hub()
        slow = [asyncio.create_task(hub.call("relay", "hang", {"depth": 0}, timeout=30.0)) for _ in range(100)]
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*(hub.call("oracle", "add", {"a": n}) for n in range(900)))
        assert answers == [n + 2 for n in range(900)]
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_a_killed_instance_costs_idempotent_callers_nothing() -> None:
    """M7 (moleculer#399): one of three dies with calls under way: idempotent ones succeed elsewhere, others end as lost or
    return a value, and none ran more often than it was allowed to."""
    ran: list[str] = []

    class Cell(Service):
        name = "cell"

        @rpc(idempotent=True)
        async def safe(self, id: str) -> str:
            return await self._work(id)

        @rpc()
        async def unsafe(self, id: str) -> str:
            return await self._work(id)

        async def _work(self, id: str) -> str:
            ran.append(id)
            await asyncio.sleep(0.2)
            return id

    async with Bench() as bench:
        cells = [Cell() for _ in range(3)]
        for cell in cells:
            await bench.start(cell)
        hub = await bench.hub()
        await hub.find("cell")
        safe = [asyncio.create_task(hub.call("cell", "safe", {"id": f"s{n}"})) for n in range(60)]
        unsafe = [asyncio.create_task(hub.call("cell", "unsafe", {"id": f"u{n}"})) for n in range(60)]
        await eventually(lambda: len(ran) == 120)
        bench.kill(cells[0].hub.instance)
        assert await asyncio.gather(*safe) == [f"s{n}" for n in range(60)]
        outcomes = await asyncio.gather(*unsafe, return_exceptions=True)
        lost = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(lost) == 20
        assert {type(outcome).__name__ for outcome in lost} == {"InstanceLost"}
        assert all(ran.count(f"u{n}") == 1 for n in range(60))


async def test_instances_may_be_addressed_and_balanced() -> None:
    """Round-robin gives each instance its turn; instance= pins a call."""

    class Who(Service):
        name = "who"

        @rpc()
        async def am_i(self) -> str:
            return self.hub.instance

    async with Bench() as bench:
        for name in ("who-a", "who-b", "who-c"):
            await bench.start(Who(), instance=name)
        hub = await bench.hub()
        await hub.find("who")
        await turns()
        assert {await hub.call("who", "am_i") for _ in range(3)} == {"who-a", "who-b", "who-c"}
        assert {await hub.call("who", "am_i", instance="who-b") for _ in range(5)} == {"who-b"}


async def test_priorities_and_headers_travel() -> None:
    """What the caller says of priority and headers is what the handler sees."""

    class Mirror(Service):
        name = "mirror"

        @rpc()
        async def look(self) -> list[Any]:
            call = current_call()
            assert call is not None
            return [call.priority, dict(call.headers), call.source]

    async with Bench() as bench:
        await bench.start(Mirror())
        hub = await bench.hub("caller")
        seen = await hub.call("mirror", "look", priority=Priority.CRITICAL, headers={"a": 1})
        assert seen == [3, {"a": 1}, "caller"]


async def test_a_hub_serves_one_service_of_its_own_name() -> None:
    """A hub that serves already, or speaks for another service, refuses, and says why."""
    async with Bench() as bench:
        hub = await bench.hub("oracle")
        with pytest.raises(ConfigurationError, match="speaks as 'oracle'"):
            await hub.serve(Relay())
        served = await hub.serve(Oracle())
        with pytest.raises(ConfigurationError, match="serves already"):
            await hub.serve(Oracle())
        await served.aclose()
        await served.aclose()


async def test_closed_doors_refuse_and_open_ones_answer() -> None:
    """Between serve and open_doors a service can be found, and its calls are refused as not executed."""
    async with Bench() as bench:
        hub = await bench.hub("oracle")
        served = await hub.serve(Oracle())
        caller = await bench.hub("caller", retry=RetryPolicy(attempts=1))
        with pytest.raises(Exception, match="takes no calls at present") as caught:
            await caller.call("oracle", "add", {"a": 1})
        assert getattr(caught.value, "executed", None) is False
        await served.open_doors()
        assert await caller.call("oracle", "add", {"a": 1}) == 3


async def test_a_broker_that_is_not_there_is_said_in_time() -> None:
    """Connecting ends within its timeout, and leaves no task behind."""
    async with MemoryNetwork() as network:
        network.go_down()
        before = asyncio.all_tasks()
        with pytest.raises(ConnectionLost):
            async with Hub.connect("x", transport=MemoryTransport(network, Topology()), settings=Settings(connect_timeout=0.1)):
                pytest.fail("it can't be connected")
        assert asyncio.all_tasks() == before


async def test_without_a_broker_url_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No url, no setting: the message names FABRIC_BROKER_URL and the forms that it may have."""
    monkeypatch.delenv("FABRIC_BROKER_URL", raising=False)
    with pytest.raises(ConfigurationError, match="FABRIC_BROKER_URL"):
        async with Hub.connect("x"):
            pytest.fail("there is no broker")
    with pytest.raises(ConfigurationError, match="unknown kind of broker"):
        async with Hub.connect("x", url="http://localhost"):
            pytest.fail("that is no broker")


async def test_closing_leaves_no_task_behind() -> None:
    """After a busy life with calls, events, cuts and a kill, closing ends every task that was started."""
    before = asyncio.all_tasks()
    async with Bench() as bench:
        oracles = [Oracle() for _ in range(3)]
        for oracle in oracles:
            await bench.start(oracle)
        hub = await bench.hub()
        calls = [asyncio.create_task(hub.call("oracle", "muse", timeout=0.3)) for _ in range(30)]
        await asyncio.gather(*(hub.call("oracle", "add", {"a": n}) for n in range(100)))
        bench.kill(oracles[0].hub.instance)
        bench.cut(hub.instance)
        await asyncio.gather(*calls, return_exceptions=True)
        assert hub.pending == 0
    await turns()
    assert asyncio.all_tasks() == before


async def test_everything_gone_ends_soon_and_comes_back_by_itself() -> None:
    """The only instance dies: calls end as NoInstance in round trips; a new one comes up and is called at once."""
    async with Bench() as bench:
        first = Oracle()
        await bench.start(first)
        hub = await bench.hub()
        assert await hub.call("oracle", "add", {"a": 1}) == 3
        bench.kill(first.hub.instance)
        with pytest.raises(NoInstance) as caught:
            await hub.call("oracle", "add", {"a": 1})
        assert caught.value.elapsed < 1.0
        await bench.start(Oracle())
        assert await hub.call("oracle", "add", {"a": 1}) == 3
