"""The server's side of a call: what is admitted, in which order it runs, and that each request is answered exactly once."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from fabric import Service, ServiceError, current_call, rpc
from fabric.config import Settings
from fabric.errors import NoRoute, Overloaded
from fabric.hub import Hub
from fabric.routing.retry import RetryPolicy
from fabric.served import Served
from fabric.testing import Bench
from fabric.transports.base import Delivery
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology
from fabric.wire import batch, codec
from fabric.wire.message import MessageType, Priority, ServiceMessage
from tests.puppet import LIMIT, Puppet, eventually, turns


class Receipt(BaseModel):
    id: int


class Picky(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _explode(cls, value: int) -> int:
        raise KeyError("a validator with a bug")


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class GaveUp(BaseException):
    """As test frameworks and other event loops raise it."""


class Desk(Service):
    """Does what it is told, and notes what was done to it."""

    name = "desk"

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.notes: list[str] = []

    @rpc()
    async def echo(self, value: Any) -> Any:
        self.ran.append(value)
        return value

    @rpc(concurrency=2, queue=3)
    async def wait(self, n: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        self.ran.append(n)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.notes.append(f"{n} cancelled")
            raise
        finally:
            self.running -= 1
        return n

    @rpc()
    async def stubborn(self) -> str:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.notes.append("ignored")
        return "done all the same"

    @rpc()
    async def tidy(self) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            self.notes.append("tidied")
        return "never"

    @rpc()
    async def raises(self, kind: str) -> None:
        errors: dict[str, BaseException] = {
            "service": ServiceError("no such desk", code="desk.none", retryable=True, details={"n": 1}),
            "plain": ValueError("odd"),
            "base": GaveUp("stop"),
            "cancelled": asyncio.CancelledError(),
            "unreadable": Unreadable(),
            "unsendable": ServiceError("x", details={"a": Broken()}),
            "own": ServiceError("y" * 5000),
        }
        raise errors[kind]

    @rpc()
    async def wrong(self) -> Receipt:
        return {"id": "secret"}  # type: ignore[return-value]

    @rpc()
    async def unsendable(self) -> Any:
        return {"a": object()}

    @rpc()
    async def huge(self) -> Any:
        return "x" * 5000

    @rpc()
    async def picky(self, value: Picky) -> None:
        self.ran.append(value)

    @rpc()
    async def context(self) -> dict[str, Any]:
        call = current_call()
        assert call is not None
        return {"source": call.source, "method": call.method, "attempt": call.attempt, "headers": dict(call.headers)}

    @rpc(callers=("boss",))
    async def secret(self) -> str:
        return "42"


@dataclass
class Scene:
    hub: Hub
    served: Served
    desk: Desk
    puppet: Puppet
    network: MemoryNetwork
    asked: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, payload: Any = None, **fields: Any) -> ServiceMessage:
        request = self.puppet.request(method, payload, **fields)
        await self.puppet.send(self.hub.instance, request)
        return request

    async def answer(self) -> ServiceMessage:
        return await self.puppet.next(MessageType.RESPONSE)

    async def kind(self) -> Any:
        error = (await self.answer()).error
        return error and error["kind"]


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with MemoryNetwork() as network, Puppet(network, "peer", "peer-0") as puppet:
        settings = Settings(heartbeat_interval=0.5, drain_timeout=0.2, max_message_bytes=4096)
        async with Hub.connect("desk", transport=MemoryTransport(network, Topology()), settings=settings) as hub:
            desk = Desk()
            served = await hub.serve(desk)
            await served.open_doors()
            yield Scene(hub, served, desk, puppet, network)
            desk.gate.set()


# ---------------------------------------------------------------- admission


async def test_a_request_is_answered_to_its_address_with_its_id_priority_and_attempt() -> None:
    """An answer names the request, keeps its priority and attempt, and says who answered."""
    async with scene() as s:
        request = await s.ask("echo", {"value": 7}, priority=Priority.HIGH, attempt=3)
        answer = await s.answer()
        assert (answer.payload, answer.error, answer.correlation_id) == (7, None, request.id)
        assert (answer.priority, answer.attempt, answer.instance) == (Priority.HIGH, 3, s.hub.instance)


async def test_expired_requests_never_run() -> None:
    """M19 (moleculer#904): a request whose deadline has passed when it comes is answered as expired and not executed."""
    async with scene() as s:
        await s.ask("echo", {"value": 1}, within=-0.001)
        assert await s.kind() == "expired"
        assert s.desk.ran == []


async def test_a_request_that_expires_while_it_waits_never_runs() -> None:
    """A request whose deadline passes while others hold all places is answered then, and not run when a place is free."""
    async with scene() as s:
        for n in (1, 2):
            await s.ask("wait", {"n": n})
        await s.ask("wait", {"n": 3}, within=0.05)
        assert await s.kind() == "expired"
        s.desk.gate.set()
        assert {(await s.answer()).payload for _ in range(2)} == {1, 2}
        assert s.desk.ran == [1, 2]


async def test_a_request_that_expires_in_a_stalled_loop_never_runs() -> None:
    """The loop stalls past the deadline between admission and the first step: the handler is not entered."""
    async with scene() as s:
        request = s.puppet.request("echo", {"value": 1}, within=0.05)
        task = asyncio.create_task(s.puppet.send(s.hub.instance, request))
        while s.served.load == 0:
            await turns(1)
        time.sleep(0.06)  # noqa: ASYNC251  what stalls the loop is the point
        assert await s.kind() == "expired"
        assert s.desk.ran == []
        await task


async def test_an_unknown_method_is_answered_with_those_that_exist() -> None:
    """A misspelt method is told apart from a failing one, and the answer lists what there is."""
    async with scene() as s:
        await s.ask("ecko")
        error = (await s.answer()).error
        assert error is not None
        assert error["kind"] == "no-method"
        assert "echo" in error["message"]


async def test_only_named_callers_may_call() -> None:
    """A method limited to callers refuses all others. Whom the broker vouches for counts, whatever the message says of its
    source; in memory, where it vouches for nobody unless told to, the source does."""
    async with scene() as s:
        await s.ask("secret", source="mallory")
        assert await s.kind() == "not-allowed"
        await s.ask("secret", source="boss")
        assert (await s.answer()).payload == "42"
        for user, source, allowed in (("boss", "mallory", True), ("mallory", "boss", False)):
            link = MemoryTransport(s.network, Topology(), user=user)
            await link.connect(timeout=LIMIT)
            request = codec.encode(s.puppet.request("secret", source=source))
            await link.send(s.puppet.topology.rpc, s.hub.instance, request, timeout=LIMIT)
            assert ((await s.answer()).error is None) is allowed
            await link.aclose()


async def test_a_doubled_request_runs_once_and_is_answered_once() -> None:
    """M22 (taskiq-aio-pika#46): the same request delivered twice while it runs has one run and one answer."""
    async with scene() as s:
        request = await s.ask("wait", {"n": 1})
        await s.puppet.send(s.hub.instance, request, request)
        await turns()
        s.desk.gate.set()
        assert (await s.answer()).payload == 1
        await turns()
        assert not s.puppet.has(MessageType.RESPONSE)
        assert s.desk.ran == [1]


async def test_damaged_and_foreign_messages_do_not_spoil_their_neighbours() -> None:
    """M31 (dramatiq#848): beside a damaged message, one of a wrong type and one without an address the rest of a batch runs."""
    async with scene() as s:
        good = codec.encode(s.puppet.request("echo", {"value": "good"}))
        mute = codec.encode(s.puppet.request("echo", {"value": "mute"}, reply_to=None))
        stray = codec.encode(s.puppet.request("echo", {"value": "stray"}, type=MessageType.STREAM_ITEM))
        await s.puppet.send_raw(s.hub.instance, batch.join([b"\xc1damaged", mute, stray, good]), batch.BATCH)
        assert (await s.answer()).payload == "good"
        assert s.desk.ran == ["mute", "good"]


async def test_an_address_that_cannot_be_one_harms_nobody() -> None:
    """A hostile reply address is dropped with a count; the answers of others in the same turn are sent."""
    async with scene() as s:
        hostile = s.puppet.request("echo", {"value": 1}, reply_to="a" * 300)
        await s.puppet.send(s.hub.instance, hostile, s.puppet.request("echo", {"value": 2}))
        assert (await s.answer()).payload == 2


# ---------------------------------------------------------------- limits


async def test_concurrency_and_queue_of_a_method_hold() -> None:
    """Two run, three wait, more are refused: the newest of the lowest priority goes, and what is more important stays."""
    async with scene() as s:
        for n in range(5):
            await s.ask("wait", {"n": n}, priority=Priority.LOW if n == 3 else Priority.NORMAL)
        high = await s.ask("wait", {"n": 10}, priority=Priority.HIGH)
        refused = await s.answer()
        assert refused.error is not None
        assert refused.error["kind"] == "overloaded"
        await s.ask("wait", {"n": 11}, priority=Priority.LOW)
        assert await s.kind() == "overloaded"
        s.desk.gate.set()
        assert {(await s.answer()).payload for _ in range(5)} == {0, 1, 2, 4, 10}
        assert s.desk.ran == [0, 1, 10, 2, 4]
        assert s.desk.most == 2
        assert high.id


async def test_a_slow_method_does_not_hold_up_another() -> None:
    """M9 (faststream#1318): with every place of one method taken and its queue full, another method answers at once."""
    async with scene() as s:
        for n in range(5):
            await s.ask("wait", {"n": n})
        await s.ask("echo", {"value": "quick"})
        assert (await s.answer()).payload == "quick"


async def test_a_critical_one_behind_ten_thousand_low_ones_is_next() -> None:
    """M12 (celery#8025, #5127): with 10,000 low requests waiting a critical one starts within one handler's time, and under a
    flood of critical ones low still gets its floor."""

    class Press(Service):
        name = "press"

        def __init__(self) -> None:
            self.order: list[str] = []

        @rpc(concurrency=1, queue=20_000)
        async def run(self, id: str) -> None:
            self.order.append(id)
            await asyncio.sleep(0)

    async with Bench() as bench, Puppet(bench.network, "peer", "peer-0") as puppet:
        press = Press()
        await bench.start(press)
        low = [puppet.request("run", {"id": f"low{n}"}, priority=Priority.LOW, reply_to=None) for n in range(10_000)]
        await puppet.send(press.hub.instance, *low)
        await eventually(lambda: len(press.order) > 5)
        before = len(press.order)
        await puppet.send(press.hub.instance, puppet.request("run", {"id": "critical"}, priority=Priority.CRITICAL))
        await eventually(lambda: "critical" in press.order)
        assert press.order.index("critical") <= before + 100, "what ran while it was on its way, and one more"
        flood = [puppet.request("run", {"id": f"c{n}"}, priority=Priority.CRITICAL, reply_to=None) for n in range(1000)]
        await puppet.send(press.hub.instance, *flood)
        await eventually(lambda: "c999" in press.order)
        during = press.order[press.order.index("c0") : press.order.index("c999")]
        assert sum(id.startswith("low") for id in during) >= len(during) // 16 - 1


async def test_critical_has_room_of_its_own() -> None:
    """With every open place taken by hanging handlers a critical request starts at once, in a place kept for such."""

    class Hall(Service):
        name = "hall"

        def __init__(self) -> None:
            self.gate = asyncio.Event()
            self.inside = 0

        @rpc(concurrency=10)
        async def enter(self) -> str:
            self.inside += 1
            await self.gate.wait()
            return "out"

    async with Bench() as bench:
        hall = Hall()
        await bench.start(hall)
        hub = await bench.hub()
        crowd = [asyncio.create_task(hub.call("hall", "enter")) for _ in range(20)]
        await eventually(lambda: hall.inside == 9)
        critical = [asyncio.create_task(hub.call("hall", "enter", priority=Priority.CRITICAL)) for _ in range(2)]
        await eventually(lambda: hall.inside == 10)
        await turns()
        assert hall.inside == 10
        hall.gate.set()
        assert await asyncio.gather(*crowd, *critical) == ["out"] * 22


async def test_a_refusal_says_when_to_come_back() -> None:
    """Overloaded carries the time after which what waits now should have been started, as far as handlers took lately."""

    class Slow(Service):
        name = "slow"

        @rpc(concurrency=1, queue=4)
        async def work(self) -> None:
            await asyncio.sleep(0.05)

    async with Bench() as bench:
        await bench.start(Slow())
        hub = await bench.hub(retry=RetryPolicy(attempts=1))
        await hub.call("slow", "work")
        calls = [asyncio.create_task(hub.call("slow", "work")) for _ in range(10)]
        refused = [error for error in await asyncio.gather(*calls, return_exceptions=True) if isinstance(error, Overloaded)]
        assert len(refused) == 5
        assert all(0.15 <= error.retry_after <= 0.6 for error in refused)


# ---------------------------------------------------------------- whatever the handler does


@pytest.mark.parametrize(
    ("method", "payload", "kind", "says"),
    [
        ("echo", {}, "invalid", "value: Field required"),
        ("echo", None, "invalid", "value: Field required"),
        ("echo", {"value": 1, "more": 2}, "invalid", "more"),
        ("echo", 7, "invalid", ""),
        ("raises", {"kind": "service"}, "failed", "no such desk"),
        ("raises", {"kind": "plain"}, "failed", "odd"),
        ("raises", {"kind": "cancelled"}, "cancelled", ""),
        ("raises", {"kind": "unreadable"}, "failed", "can't be read"),
        ("raises", {"kind": "unsendable"}, "failed", "can't be sent"),
        ("raises", {"kind": "own"}, "failed", "over the limit"),
        ("wrong", None, "invalid-result", "id:"),
        ("unsendable", None, "failed", "can't be sent"),
        ("huge", None, "failed", "over the limit"),
        ("picky", {"n": 1}, "failed", "a validator with a bug"),
    ],
)
async def test_whatever_a_handler_does_its_caller_is_answered(
    method: str, payload: Any, kind: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad arguments, errors of any kind, results that do not fit, can't be sent or are too large: one typed answer each."""
    caplog.set_level(logging.CRITICAL)
    async with scene() as s:
        await s.ask(method, payload)
        error = (await s.answer()).error
        assert error is not None
        assert error["kind"] == kind
        assert says in error["message"]
        assert "secret" not in str(error)
        assert s.served.load == 0


async def test_even_a_base_exception_is_answered_and_frees_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises past Exception is answered, and its place is free again."""
    caplog.set_level(logging.CRITICAL)
    async with scene() as s:
        seen: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        await s.ask("raises", {"kind": "base"})
        assert await s.kind() == "failed"
        await turns()
        assert s.served.load == 0
        gc.collect()
        assert [type(context["exception"]) for context in seen] == [GaveUp]


async def test_a_service_chooses_what_its_caller_sees() -> None:
    """ServiceError travels with code, details and whether to try again."""
    async with scene() as s:
        await s.ask("raises", {"kind": "service"})
        error = (await s.answer()).error
        assert error is not None
        assert (error["code"], error["retryable"], error["details"]) == ("desk.none", True, {"n": 1})


async def test_a_handler_knows_the_call_that_it_answers() -> None:
    """current_call() gives source, method, attempt and headers."""
    async with scene() as s:
        await s.ask("context", attempt=2, headers={"trace": "t"})
        assert (await s.answer()).payload == {"source": "peer", "method": "context", "attempt": 2, "headers": {"trace": "t"}}


# ---------------------------------------------------------------- cancelling


async def test_a_cancel_reaches_the_handler_and_is_not_answered() -> None:
    """M19 (moleculer#904): the handler is cancelled within 200 ms, its place is free, and no answer is sent to nobody."""
    async with scene() as s:
        request = await s.ask("wait", {"n": 1})
        while not s.desk.ran:
            await turns(1)
        async with asyncio.timeout(0.2):
            await s.ask("", type=MessageType.CANCEL, correlation_id=request.id)
            while s.served.load:
                await turns(1)
        assert s.desk.notes == ["1 cancelled"]
        assert not s.puppet.has(MessageType.RESPONSE)


async def test_a_waiting_request_can_be_cancelled() -> None:
    """A cancelled request gives up its place in the queue and never runs."""
    async with scene() as s:
        requests = [await s.ask("wait", {"n": n}) for n in range(4)]
        await s.ask("", type=MessageType.CANCEL, correlation_id=requests[2].id)
        await turns()
        s.desk.gate.set()
        assert {(await s.answer()).payload for _ in range(3)} == {0, 1, 3}
        assert s.desk.ran == [0, 1, 3]


async def test_a_cancel_that_overtakes_its_request_counts() -> None:
    """Cancels travel at their own priority: one that comes first keeps the request from running."""
    async with scene() as s:
        request = s.puppet.request("echo", {"value": 1})
        await s.puppet.send(s.hub.instance, request._replace(type=MessageType.CANCEL, correlation_id=request.id), request)
        await s.ask("echo", {"value": 2})
        assert (await s.answer()).payload == 2
        assert s.desk.ran == [2]
        assert s.served.load == 0


async def test_a_cancel_in_the_turn_of_its_request_leaks_nothing() -> None:
    """A task cancelled before its first step never enters the handler: the place is freed and the request forgotten."""
    async with scene() as s:
        for _ in range(3):
            request = s.puppet.request("wait", {"n": 1})
            await s.puppet.send(s.hub.instance, request, request._replace(type=MessageType.CANCEL, correlation_id=request.id))
        await turns()
        assert s.served.load == 0
        assert s.desk.ran == []
        s.desk.gate.set()
        for n in (1, 2):
            await s.ask("wait", {"n": n})
        assert {(await s.answer()).payload for _ in range(2)} == {1, 2}


async def test_at_the_deadline_a_running_handler_is_cancelled_once() -> None:
    """The handler is cancelled at its deadline, may clean up undisturbed, and the caller is told that it was too late."""
    async with scene() as s:
        await s.ask("tidy", within=0.05)
        error = (await s.answer()).error
        assert error is not None
        assert error["kind"] == "late"
        assert s.desk.notes == ["tidied"]


# ---------------------------------------------------------------- the end


async def test_drain_answers_everything_exactly_once() -> None:
    """M25 (faststream#1648): what runs ends and is answered, what waits and what still comes is refused at once as draining,
    nothing is answered twice, nothing not at all."""
    async with scene() as s:
        asked = [await s.ask("wait", {"n": n}) for n in range(5)]
        await turns()
        draining = asyncio.create_task(s.served.drain(5.0))
        await turns()
        asked += [await s.ask("wait", {"n": 10 + n}) for n in range(5)]
        refused = [await s.answer() for _ in range(8)]
        assert {answer.error and answer.error["kind"] for answer in refused} == {"draining"}
        assert not draining.done()
        s.desk.gate.set()
        done = [await s.answer() for _ in range(2)]
        assert await draining
        assert {answer.payload for answer in done} == {0, 1}
        assert sorted(str(answer.correlation_id) for answer in refused + done) == sorted(request.id for request in asked)
        await turns()
        assert not s.puppet.has(MessageType.RESPONSE)


async def test_drain_has_an_end() -> None:
    """What does not end in time is cancelled; one that ignores even that is answered as stopped, and its result is not sent."""
    async with scene() as s:
        await s.ask("wait", {"n": 1})
        await s.ask("stubborn")
        await s.ask("tidy")
        await turns()
        assert not await s.served.drain(0.05)
        assert {await s.kind() for _ in range(3)} == {"stopped"}
        assert sorted(s.desk.notes) == ["1 cancelled", "ignored", "tidied"]
        assert s.served.load == 0
        s.desk.gate.set()
        await turns()
        assert not s.puppet.has(MessageType.RESPONSE)


async def test_drained_doors_can_be_opened_again() -> None:
    """A service that was stopped by command and is started again takes calls as before."""
    async with scene() as s:
        assert await s.served.drain(0.0)
        await s.ask("echo", {"value": 1})
        assert await s.kind() == "draining"
        await s.served.open_doors()
        await s.ask("echo", {"value": 2})
        assert (await s.answer()).payload == 2


async def test_leaving_answers_what_is_in_the_inbox_first() -> None:
    """M25 (faststream#1648): requests sent until the inbox goes are answered or returned by the broker, none is swallowed."""
    async with scene() as s:
        await s.served.drain(1.0)
        sent: set[str] = set()
        returned: set[str] = set()

        async def pester() -> None:
            while not returned:
                request = s.puppet.request("echo", {"value": 1})
                try:
                    await s.puppet.send(s.hub.instance, request)
                    sent.add(request.id)
                except NoRoute:
                    returned.add(request.id)

        pestering = asyncio.create_task(pester())
        await turns()
        await s.served.aclose()
        await pestering
        assert {(await s.answer()).correlation_id for _ in sent} == sent


async def test_answers_wait_for_the_link() -> None:
    """M22 (rabbot#47): a handler that ends while the link is down has its answer sent once over the next link."""
    async with scene() as s:
        await s.ask("wait", {"n": 1})
        await turns()
        link = s.hub.transport
        assert isinstance(link, MemoryTransport)
        s.network.partition(link)
        await turns()
        s.desk.gate.set()
        while s.served.load:
            await turns(1)
        s.network.heal()
        assert (await s.answer()).payload == 1
        await turns()
        assert not s.puppet.has(MessageType.RESPONSE)


async def test_an_answer_in_json_that_waited_for_the_link_is_json() -> None:
    """M22 (rabbot#47): requests in JSON whose answers have to wait for the next link are answered in JSON, each in a body of
    its own; those in msgpack beside them in theirs."""
    async with scene() as s:
        bodies: asyncio.Queue[Delivery] = asyncio.Queue()
        await s.puppet.transport.consume(s.puppet.topology.replies("reply.raw"), bodies.put_nowait, timeout=LIMIT)
        for n in range(2):
            request = s.puppet.request("wait", {"n": n}, reply_to="reply.raw")
            await s.puppet.send_raw(s.hub.instance, codec.encode_json(request), codec.JSON)
        await s.ask("wait", {"n": 2}, reply_to="reply.raw")
        while s.served.load < 3:
            await turns(1)
        link = s.hub.transport
        assert isinstance(link, MemoryTransport)
        s.network.partition(link)
        await turns()
        s.desk.gate.set()
        while s.served.load:
            await turns(1)
        s.network.heal()
        async with asyncio.timeout(LIMIT):
            deliveries = [await bodies.get() for _ in range(3)]
        assert sorted(delivery.content_type for delivery in deliveries) == [codec.JSON, codec.JSON, codec.MSGPACK]
        read = [batch.messages(delivery.body, delivery.content_type) for delivery in deliveries]
        assert sorted(message.payload for (message,) in read if isinstance(message, ServiceMessage)) == [0, 1, 2]


async def test_an_instance_says_which_requests_it_does_not_have() -> None:
    """Asked about requests it names those that it neither runs nor queues, and is silent when it has them all."""
    async with scene() as s:
        request = await s.ask("wait", {"n": 1})
        await turns()
        await s.ask("", [request.id, "lost", 3], type=MessageType.PROBE)
        assert (await s.puppet.next(MessageType.PROBE)).payload == ["lost"]
        await s.ask("", [request.id], type=MessageType.PROBE)
        await s.ask("", type=MessageType.PROBE)
        await turns()
        assert not s.puppet.has(MessageType.PROBE)


@pytest.mark.parametrize("seed", range(5))
async def test_any_mix_of_requests_cancels_and_a_drain_ends_with_nothing_left(seed: int) -> None:
    """A random storm: at its end nothing runs or waits, every request that was not cancelled has exactly one answer."""
    chance = random.Random(seed)
    async with scene() as s:
        asked: dict[str, ServiceMessage] = {}
        cancelled: set[str] = set()
        for n in range(200):
            within = chance.choice((0.0, 0.005, LIMIT))
            method, payload = chance.choice((("echo", {"value": n}), ("wait", {"n": n}), ("raises", {"kind": "service"})))
            priority = Priority(chance.randrange(4))
            request = await s.ask(method, payload, within=within, priority=priority)
            asked[request.id] = request
            if chance.random() < 0.3:
                victim = chance.choice(list(asked))
                cancelled.add(victim)
                await s.ask("", type=MessageType.CANCEL, correlation_id=victim)
            if chance.random() < 0.05:
                s.desk.gate.set()
                await turns(3)
                s.desk.gate.clear()
        draining = asyncio.create_task(s.served.drain(0.05))
        await turns()
        s.desk.gate.set()
        await draining
        await turns()
        answers: list[str] = []
        while s.puppet.has(MessageType.RESPONSE):
            answers.append(str((await s.answer()).correlation_id))
        assert len(answers) == len(set(answers)), "answered twice"
        assert set(asked) - cancelled <= set(answers), "not answered"
        assert s.served.load == 0
        assert s.desk.running == 0


async def test_a_handler_may_call_while_its_service_drains() -> None:
    """A hub that closes lets what runs end first, with its own calls still working."""

    class Front(Service):
        name = "front"

        @rpc()
        async def ask(self) -> str:
            await asyncio.sleep(0.1)
            return await self.hub.call("desk", "echo", {"value": "deep"}, returns=str)

    async with Bench() as bench:
        desk, front = Desk(), Front()
        await bench.start(desk)
        await bench.start(front)
        hub = await bench.hub()
        call = asyncio.create_task(hub.call("front", "ask"))
        while not front.hub._served or not front.hub._served.load:
            await turns(1)
        await bench.stop(front.hub.instance)
        assert await call == "deep"
