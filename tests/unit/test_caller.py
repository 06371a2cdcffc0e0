"""A call from the caller's side: every way it can end, what is tried again, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fabric.config import Settings
from fabric.errors import (
    CallError,
    CallNotSent,
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    ExpiredInQueue,
    InstanceLost,
    InvalidMessage,
    LinkLost,
    NoInstance,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ValidationFailed,
)
from fabric.hub import Hub
from fabric.routing import outcomes
from fabric.routing.instance import InstanceState
from fabric.routing.retry import RetryPolicy
from fabric.testing import Bench
from fabric.transports.memory import MemoryTransport
from fabric.wire import batch, codec
from fabric.wire.message import MessageType, Priority, ServiceMessage
from tests.puppet import Puppet, turns

QUICK = RetryPolicy(base=0.001, ceiling=0.002)
IDEMPOTENT = {"work": {"idempotent": True, "timeout": None}}


@dataclass
class Stage:
    """A hub that calls, and puppets that it calls."""

    bench: Bench
    hub: Hub
    puppets: list[Puppet]

    @property
    def puppet(self) -> Puppet:
        return self.puppets[0]

    @property
    def puppet_link(self) -> MemoryTransport:
        assert isinstance(self.puppet.transport, MemoryTransport)
        return self.puppet.transport


@asynccontextmanager
async def stage(
    count: int = 1, *, retry: RetryPolicy = QUICK, settings: Settings | None = None, **facts: Any
) -> AsyncIterator[Stage]:
    async with Bench(settings=settings) as bench:
        puppets = [Puppet(bench.network, "worker", f"worker-{n}", **facts) for n in range(count)]
        for puppet in puppets:
            await puppet.__aenter__()
        hub = await bench.hub(retry=retry)
        await hub.find("worker")
        await turns()
        yield Stage(bench, hub, puppets)
        await turns()
        assert hub.pending == 0, "a request was left behind"
        for puppet in puppets:
            await puppet.__aexit__(None, None, None)


async def ended(call: Awaitable[Any]) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value


async def from_any(puppets: list[Puppet]) -> tuple[Puppet, ServiceMessage]:
    """The next request, whoever of them got it."""
    async with asyncio.timeout(5):
        while True:
            for puppet in puppets:
                if puppet.has(MessageType.REQUEST):
                    return puppet, await puppet.next()
            await asyncio.sleep(0)


# ---------------------------------------------------------------- how it can end


async def test_headers_are_taken_as_they_are_now() -> None:
    """M22 (rabbot#47): headers that the caller goes on to use for something else are sent as they were when it called."""
    async with stage() as s:
        headers = {"trace": "one"}
        call = s.hub.call("worker", "work", headers=headers)
        asked = asyncio.create_task(call)
        asyncio.get_running_loop().call_soon(headers.update, {"trace": "two"})
        request = await s.puppet.next()
        assert request.headers == {"trace": "one"}
        s.puppet.answer(request, 1)
        assert await asked == 1


async def test_an_answer_is_returned_and_the_request_says_all_that_a_callee_needs() -> None:
    """The request carries caller, method, payload, priority, headers, first attempt and an absolute deadline."""
    async with stage() as s:
        call = asyncio.create_task(
            s.hub.call("worker", "work", {"n": 1}, timeout=3.0, priority=Priority.HIGH, headers={"trace": "t"})
        )
        request = await s.puppet.next()
        assert (request.source, request.method, request.payload) == ("test", "work", {"n": 1})
        assert (request.priority, request.headers, request.attempt) == (Priority.HIGH, {"trace": "t"}, 1)
        assert request.deadline is not None
        assert 2.0 < request.deadline - s.puppet.clock.time() <= 3.0
        s.puppet.answer(request, {"ok": True})
        assert await call == {"ok": True}


@pytest.mark.parametrize(
    ("answer", "kind", "executed"),
    [
        (outcomes.overloaded("full", 0.0), Overloaded, False),
        (outcomes.draining("going"), Overloaded, False),
        (outcomes.expired(), ExpiredInQueue, False),
        (outcomes.late(), DeadlineExceeded, None),
        (outcomes.stopped(), InstanceLost, None),
        (outcomes.cancelled("told to"), Cancelled, None),
        (outcomes.invalid("n: not a number", []), ValidationFailed, False),
        (outcomes.invalid_result("id: missing", []), ValidationFailed, True),
        (outcomes.no_method("no method 'work'"), ValidationFailed, False),
        (outcomes.failed(RuntimeError("boom")), RemoteError, True),
        ({"kind": "of tomorrow", "message": "?"}, RemoteError, True),
        ({}, RemoteError, True),
    ],
)
async def test_each_refusal_and_failure_of_a_callee_has_its_class(
    answer: dict[str, Any], kind: type[CallError], executed: bool | None
) -> None:
    """What the callee answers becomes an error of its own class that says whether it ran, who had it, and since when."""
    async with stage(retry=RetryPolicy(attempts=1)) as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=3.0)))
        s.puppet.answer(await s.puppet.next(), error=answer)
        error = await call
        assert type(error) is kind
        assert error.executed is executed
        assert (error.service, error.method, error.instance, error.attempt) == ("worker", "work", "worker-0", 1)
        assert 0 <= error.elapsed < 3.0
        assert 0 < error.remaining <= 3.0
        assert "worker.work on worker-0" in str(error)


async def test_a_service_that_nobody_offers_is_known_in_one_round_trip() -> None:
    """M5 (MassTransit#2229): an unknown service, or capability, ends as NoInstance long before the timeout."""
    async with stage() as s:
        began = asyncio.get_running_loop().time()
        for call in (s.hub.call("nobody", "work"), s.hub.call_by_capability("nothing", "work")):
            error = await ended(call)
            assert type(error) is NoInstance
            assert error.executed is False
            assert error.remaining > 4.0
        assert asyncio.get_running_loop().time() - began < 1.0


async def test_no_answer_in_time_cancels_the_handler() -> None:
    """M19 (moleculer#904): at the deadline the caller gets DeadlineExceeded and the callee a cancel for that very request."""
    async with stage() as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=0.5)))
        request = await s.puppet.next()
        error = await call
        assert type(error) is DeadlineExceeded
        assert error.executed is None
        assert (await s.puppet.next(MessageType.CANCEL)).correlation_id == request.id


async def test_a_cancelled_caller_cancels_the_handler() -> None:
    """M19 (moleculer#904): cancelling the caller's task sends a cancel, and the task ends as cancelled."""
    async with stage() as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        request = await s.puppet.next()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await s.puppet.next(MessageType.CANCEL)).correlation_id == request.id


async def test_a_call_cancelled_before_it_left_is_never_sent() -> None:
    """Cancelled in the turn in which it was made, a request does not leave the process, and neither does a cancel."""
    async with stage() as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        await asyncio.sleep(0)
        assert s.hub.pending == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await turns()
        assert s.puppet.inbox.empty()


async def test_an_answer_in_the_same_turn_as_a_cancellation_leaves_nothing_behind() -> None:
    """The answer and the cancellation cross: the caller ends as cancelled, without an error that nobody retrieves."""
    async with stage() as s:
        for error in (None, outcomes.failed(ValueError("x"))):
            call = asyncio.create_task(s.hub.call("worker", "work"))
            s.puppet.answer(await s.puppet.next(), "late", error=error)
            while s.hub.pending:
                await turns(1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call


async def test_doubled_and_late_answers_are_counted_and_change_nothing() -> None:
    """Only the first answer counts; one that comes twice, late, or for a request that never was is dropped."""
    async with stage() as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        request = await s.puppet.next()
        s.puppet.answer(request, "first")
        s.puppet.answer(request, "second")
        assert await call == "first"
        s.puppet.answer(request, "third")
        s.puppet.answer(request._replace(id="never"), "?")
        await turns()
        assert s.hub.late_answers == 3


async def test_answers_of_one_body_are_judged_by_whom_they_come_from() -> None:
    """One body with answers to calls of several instances: each is heard of once, and each caller gets its own answer."""
    async with stage(2) as s:
        calls = [asyncio.create_task(s.hub.call("worker", "work", {"n": n}, instance=f"worker-{n % 2}")) for n in range(4)]
        requests = [await from_any(s.puppets) for _ in calls]
        body = batch.join(
            [
                codec.encode(
                    request._replace(
                        id=f"a{n}", type=MessageType.RESPONSE, payload=request.payload["n"], correlation_id=request.id
                    )
                )
                for n, (_, request) in enumerate(requests)
            ]
        )
        s.puppet.transport.post(s.hub.topology.rpc, str(requests[0][1].reply_to), body, content_type=batch.BATCH)
        assert await asyncio.gather(*calls) == [0, 1, 2, 3]
        for endpoint in s.hub.registry.endpoints():
            assert (endpoint.latency.count, endpoint.pending) == (2, 0)


async def test_what_cannot_be_sent_fails_before_anything_is() -> None:
    """A payload that is too large or has no wire form raises at once, and the callee hears nothing."""
    async with stage(settings=Settings(heartbeat_interval=0.5, max_message_bytes=2000)) as s:
        with pytest.raises(PayloadTooLarge):
            await s.hub.call("worker", "work", "x" * 3000)
        with pytest.raises(InvalidMessage):
            await s.hub.call("worker", "work", {"a": object()})
        await turns()
        assert s.puppet.inbox.empty()


async def test_without_time_left_nothing_is_sent() -> None:
    """A timeout of nothing, below nothing, or not a number ends before the call began; an endless one is cut to a day."""
    async with stage() as s:
        for timeout in (0.0, -1.0, float("nan")):
            assert type(await ended(s.hub.call("worker", "work", timeout=timeout))) is CallNotSent
        assert s.puppet.inbox.empty()
        call = asyncio.create_task(s.hub.call("worker", "work", timeout=float("inf")))
        request = await s.puppet.next()
        assert request.deadline is not None
        assert request.deadline - s.puppet.clock.time() <= 86_400
        s.puppet.answer(request)
        await call


# ---------------------------------------------------------------- what is tried again

NEVER = [outcomes.invalid("x", []), outcomes.no_method("x"), outcomes.cancelled("x"), outcomes.failed(ValueError("x"))]
UNSURE = [outcomes.stopped()]
ALWAYS = [outcomes.overloaded("x"), outcomes.draining("x"), {"kind": "failed", "message": "x", "retryable": True}]


@pytest.mark.parametrize(
    ("answer", "idempotent", "again"),
    [
        *((answer, flag, False) for answer in NEVER for flag in (False, True)),
        *((answer, flag, flag) for answer in UNSURE for flag in (False, True)),
        *((answer, flag, True) for answer in ALWAYS for flag in (False, True)),
    ],
)
async def test_only_what_did_not_run_or_may_run_twice_is_tried_again(
    answer: dict[str, Any], idempotent: bool, again: bool
) -> None:
    """Another instance is asked when the first provably did not run it, said so itself, or the method may run twice."""
    async with stage(2) as s:
        call = asyncio.create_task(s.hub.call("worker", "work", idempotent=idempotent))
        first, request = await from_any(s.puppets)
        first.answer(request, error=answer)
        if not again:
            with pytest.raises(CallError):
                await call
            return
        second, retried = await from_any(s.puppets)
        assert second is not first
        assert (retried.attempt, retried.id != request.id) == (2, True)
        assert retried.deadline == pytest.approx(request.deadline, abs=0.01), "the deadline is that of the call"
        second.answer(retried, "done")
        assert await call == "done"


async def test_a_method_says_itself_whether_it_may_run_twice() -> None:
    """Without a word of the caller's the announced contract decides, even when its last instance has just been lost."""
    async with stage(methods=IDEMPOTENT) as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        s.puppet.answer(await s.puppet.next(), error=outcomes.stopped())
        s.puppet.answer(await s.puppet.next(), "done")
        assert await call == "done"


async def test_attempts_end() -> None:
    """An instance that is always overloaded is asked as often as the policy says, then its refusal is what the caller gets."""
    async with stage(retry=RetryPolicy(attempts=3, base=0.0)) as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work")))
        for attempt in (1, 2, 3):
            request = await s.puppet.next()
            assert request.attempt == attempt
            s.puppet.answer(request, error=outcomes.overloaded("full"))
        error = await call
        assert type(error) is Overloaded
        assert error.attempt == 3


async def test_retries_are_bounded_by_a_budget_not_only_by_attempts() -> None:
    """When everything is refused, retries add their share to the load and then stop: the budget is per target."""
    policy = RetryPolicy(attempts=4, base=0.0, budget_ratio=0.1, budget_burst=2.0)
    async with stage(retry=policy) as s:
        calls = [asyncio.create_task(ended(s.hub.call("worker", "work"))) for _ in range(100)]
        while not all(call.done() for call in calls):
            await asyncio.sleep(0)
            while s.puppet.has(MessageType.REQUEST):
                s.puppet.answer(await s.puppet.next(), error=outcomes.overloaded("full"))
        attempts = sum([(await call).attempt for call in calls])
        assert 100 + 2 <= attempts <= 100 + 2 + 0.1 * 100 + 1


async def test_going_elsewhere_costs_no_budget() -> None:
    """An instance that drains refuses a hundred waiting requests at once: all are taken elsewhere, whatever the budget."""
    policy = RetryPolicy(attempts=2, base=0.0, budget_ratio=0.0, budget_burst=0.0)
    async with stage(2, retry=policy) as s:
        calls = [asyncio.create_task(s.hub.call("worker", "work")) for _ in range(100)]
        while not all(call.done() for call in calls):
            await asyncio.sleep(0)
            while s.puppets[0].has(MessageType.REQUEST):
                s.puppets[0].answer(await s.puppets[0].next(), error=outcomes.draining("going"))
            while s.puppets[1].has(MessageType.REQUEST):
                s.puppets[1].answer(await s.puppets[1].next(), "done")
        assert {await call for call in calls} == {"done"}


async def test_a_pause_that_would_pass_the_deadline_is_not_made() -> None:
    """A callee that asks to come back after the deadline gets no second request, and the caller its error at once."""
    async with stage() as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=1.0)))
        s.puppet.answer(await s.puppet.next(), error=outcomes.overloaded("full", retry_after=5.0))
        error = await call
        assert isinstance(error, Overloaded)
        assert error.retry_after == 5.0
        assert error.elapsed < 1.0


async def test_an_instance_whose_inbox_is_gone_is_passed_over() -> None:
    """A killed instance that is still known costs nobody a call: the broker returns the request, and another gets it."""
    async with stage(3) as s:
        for puppet in s.puppets[:2]:
            await puppet.transport.aclose()
        calls = [asyncio.create_task(s.hub.call("worker", "work")) for _ in range(6)]
        for _ in calls:
            s.puppets[2].answer(await s.puppets[2].next(), "done")
        assert [await call for call in calls] == ["done"] * 6
        assert [instance.id for instance in s.hub.registry.instances("worker")] == ["worker-2"]


async def test_all_instances_killed_ends_in_round_trips() -> None:
    """M6 (nameko, kontiki): when nobody is left the call ends as NoInstance with the attempts it took, not at the timeout."""
    async with stage(3) as s:
        for puppet in s.puppets:
            await puppet.transport.aclose()
        error = await ended(s.hub.call("worker", "work"))
        assert type(error) is NoInstance
        assert error.attempt == 4
        assert error.elapsed < 1.0


# ---------------------------------------------------------------- losing instances and links


async def test_what_a_lost_instance_had_ends_at_once() -> None:
    """M6 (nameko, kontiki): the detector's bound, not the timeout, ends calls whose instance died with them."""
    async with stage() as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=30.0)))
        await s.puppet.next()
        await s.puppet.transport.aclose()
        error = await call
        assert type(error) is InstanceLost
        assert error.executed is None
        assert error.elapsed < 5.0


async def test_what_may_not_have_left_is_asked_about_after_a_reconnect() -> None:
    """M22 (rabbot#47): the link breaks before the broker is known to have a request: if it did not arrive the call ends as
    LinkLost when the instance says so after the reconnect, and an idempotent one is asked again."""
    async with stage(methods=IDEMPOTENT) as s:
        network, link = s.bench.network, s.hub.transport
        assert isinstance(link, MemoryTransport)
        network.pause(link)
        once = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=30.0, idempotent=False)))
        again = asyncio.create_task(s.hub.call("worker", "work", timeout=30.0))
        await turns()
        network.cut(link)
        probe = await s.puppet.next(MessageType.PROBE)
        assert not once.done()
        assert set(probe.payload) == set(s.hub._pending._pending)
        s.puppet.say(probe, MessageType.PROBE, probe.payload)
        assert type(await once) is LinkLost
        s.puppet.answer(await s.puppet.next(), "done")
        assert await again == "done"


async def test_what_a_lost_instance_had_unconfirmed_ends_with_the_brokers_word() -> None:
    """M6 (nameko, kontiki): an instance goes before it is known whether a request reached it; as soon as that is known the call
    ends, as InstanceLost if it did."""
    async with stage() as s:
        network, link = s.bench.network, s.hub.transport
        assert isinstance(link, MemoryTransport)
        network.pause(link)
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=30.0)))
        await turns()
        s.hub.registry.lose("worker-0", "it said so elsewhere")
        await turns()
        assert not call.done()
        network.resume(link)
        error = await call
        assert type(error) is InstanceLost
        assert error.elapsed < 5.0
        await s.puppet.next()
        assert not s.hub._pending._doomed


async def test_a_new_incarnation_ends_what_the_old_one_had() -> None:
    """M29 (moleculer#339): the process came back under its id; calls to the old one are lost, new ones go to the new one."""
    async with stage() as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work")))
        await s.puppet.next()
        s.puppet.announce(incarnation=2)
        assert type(await call) is InstanceLost
        s.puppet.announce(incarnation=1)
        await turns()
        assert s.hub.registry.instances("worker")[0].incarnation == 2
        call2 = asyncio.create_task(s.hub.call("worker", "work"))
        s.puppet.answer(await s.puppet.next(), "new")
        assert await call2 == "new"


async def test_an_instance_that_leaves_still_answers_what_it_has() -> None:
    """A goodbye takes an instance out of the running; the call that it has under way is answered."""
    async with stage() as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        request = await s.puppet.next()
        s.puppet.announce(state=InstanceState.STOPPING)
        await turns()
        assert s.hub.registry.instances("worker") == ()
        s.puppet.answer(request, "done")
        assert await call == "done"


async def test_a_reconnect_does_not_fail_what_the_callee_still_has() -> None:
    """M22 (rabbot#47): our link breaks while a handler runs: the callee says that it has the request, and its answer counts."""
    async with stage() as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        request = await s.puppet.next()
        s.bench.cut(s.hub.instance)
        probe = await s.puppet.next(MessageType.PROBE)
        assert probe.payload == [request.id]
        s.puppet.answer(request, "done")
        assert await call == "done"


async def test_a_reconnect_fails_what_the_callee_does_not_have() -> None:
    """The answer was dropped with our old link: the callee says that it owes nothing, and the call ends as LinkLost."""
    async with stage() as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=30.0)))
        request = await s.puppet.next()
        s.bench.cut(s.hub.instance)
        s.puppet.say(await s.puppet.next(MessageType.PROBE), MessageType.PROBE, [request.id, "unheard of", 7])
        error = await call
        assert type(error) is LinkLost
        assert error.executed is None


async def test_an_idempotent_call_outlives_the_loss_of_its_answer() -> None:
    """After LinkLost an idempotent call is asked again, over the new link."""
    async with stage(methods=IDEMPOTENT) as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        request = await s.puppet.next()
        s.bench.cut(s.hub.instance)
        s.puppet.say(await s.puppet.next(MessageType.PROBE), MessageType.PROBE, [request.id])
        s.puppet.answer(await s.puppet.next(), "again")
        assert await call == "again"


async def test_a_request_that_vanished_with_a_queue_is_missed() -> None:
    """The callee's inbox was deleted and made anew: nobody says so, but the callee does not have the request when asked."""
    async with stage() as s:
        call = asyncio.create_task(ended(s.hub.call("worker", "work", timeout=30.0)))
        request = await s.puppet.next()
        s.puppet.say(await s.puppet.next(MessageType.PROBE), MessageType.PROBE, [request.id])
        error = await call
        assert type(error) is InstanceLost
        assert error.elapsed < 5.0


async def test_a_busy_instance_is_waited_for() -> None:
    """M21 (moleculer#891): an instance that does not even answer when asked is busy, not dead: its answer still counts."""
    async with stage() as s:
        call = asyncio.create_task(s.hub.call("worker", "work"))
        request = await s.puppet.next()
        await s.puppet.next(MessageType.PROBE)
        await s.puppet.next(MessageType.PROBE)
        s.puppet.answer(request, "at last")
        assert await call == "at last"


async def test_with_the_broker_down_a_call_ends_in_time_and_nothing_stale_runs() -> None:
    """M8 (MassTransit#3502, faststream#1579): called while the broker is down it returns at its timeout as CallNotSent,
    and when the broker is back the request is not sent."""
    async with stage() as s:
        s.bench.network.go_down()
        await turns()
        began = asyncio.get_running_loop().time()
        errors = await asyncio.gather(*(ended(s.hub.call("worker", "work", timeout=0.5)) for _ in range(10)))
        assert {type(error) for error in errors} == {CallNotSent}
        assert asyncio.get_running_loop().time() - began < 0.6
        s.bench.network.come_up()
        call = asyncio.create_task(s.hub.call("worker", "work", {"fresh": True}))
        request = await s.puppet.next()
        assert request.payload == {"fresh": True}
        s.puppet.answer(request)
        await call
        assert not s.puppet.has(MessageType.REQUEST)


async def test_a_call_made_while_the_link_is_down_is_sent_when_it_is_back() -> None:
    """M1 (faststream#2758): a broker restart costs time and no call: what waits for the link leaves when it is ready, and if
    the callee is back later than we are, it is waited for."""
    async with stage() as s:
        s.bench.network.go_down()
        s.bench.network.partition(s.puppet_link)
        await turns()
        call = asyncio.create_task(s.hub.call("worker", "work"))
        await turns()
        s.bench.network.come_up()
        while s.hub.registry.instances("worker"):
            await turns(1)
        s.bench.network.heal()
        s.puppet.answer(await s.puppet.next(), "done")
        assert await call == "done"


async def test_blocked_by_the_broker_low_is_shed_and_the_rest_waits() -> None:
    """M11 (RabbitMQ alarms): while the broker takes nothing a low call is refused soon, a critical one waits and is sent."""
    async with stage() as s:
        s.bench.network.block()
        await turns()
        critical = asyncio.create_task(s.hub.call("worker", "work", priority=Priority.CRITICAL))
        error = await ended(s.hub.call("worker", "work", priority=Priority.LOW))
        assert type(error) is CallNotSent
        assert error.elapsed < 1.0
        assert not critical.done()
        s.bench.network.unblock()
        s.puppet.answer(await s.puppet.next(), "done")
        assert await critical == "done"


# ---------------------------------------------------------------- choosing


async def test_a_call_may_name_its_instance() -> None:
    """Pinned to one instance a call goes there, also when others are healthier, and nowhere else."""
    async with stage(2) as s:
        s.puppets[1].announce(health=type(s.puppet.instance.health).bad("sick"))
        await turns()
        call = asyncio.create_task(s.hub.call("worker", "work", instance="worker-1"))
        s.puppets[1].answer(await s.puppets[1].next(), "me")
        assert await call == "me"


async def test_a_named_instance_that_is_gone_ends_at_once() -> None:
    """A pinned call learns from the broker that the instance is gone, whether it was ever heard of or not."""
    async with stage(2) as s:
        await s.puppets[1].transport.aclose()
        for name in ("worker-1", "worker-of-old"):
            error = await ended(s.hub.call("worker", "work", instance=name, idempotent=True))
            assert type(error) is NoInstance
            assert error.instance == name
            assert error.elapsed < 1.0
        assert s.puppets[0].inbox.empty()


async def test_a_named_instance_need_not_be_known() -> None:
    """A fresh hub that has heard of nobody reaches an instance by its id in one round trip."""
    async with stage() as s:
        other = await s.bench.hub("stranger")
        s.puppet.silent = True
        call = asyncio.create_task(other.call("worker", "work", instance="worker-0"))
        s.puppet.answer(await s.puppet.next(), "done")
        assert await call == "done"


async def test_an_unknown_strategy_is_refused_when_the_hub_is_made() -> None:
    """A misspelt balancing strategy is a ConfigurationError at once and not at the first call."""
    async with Bench() as bench:
        with pytest.raises(ConfigurationError, match="round-robin"):
            await bench.hub(balancing="rond-robin")


# ---------------------------------------------------------------- the end


async def test_closing_the_hub_ends_every_call_typed() -> None:
    """Calls that wait for an answer, for a pause or for discovery all end at once with a typed error, and so do later ones."""
    async with (
        Bench() as bench,
        Puppet(bench.network, "worker", "worker-0") as puppet,
        Puppet(bench.network, "mute", "m") as mute,
    ):
        mute.silent = True
        async with Hub.connect("leaver", transport=Puppet(bench.network, "x", "x").transport) as hub:
            calls = [asyncio.create_task(ended(hub.call("worker", "work", timeout=60.0, idempotent=True)))]
            await puppet.next()
            calls.append(asyncio.create_task(ended(hub.call("worker", "work", timeout=60.0))))
            puppet.answer(await puppet.next(), error=outcomes.overloaded("full", retry_after=30.0))
            calls.append(asyncio.create_task(ended(hub.call("mute", "work", timeout=60.0))))
            await turns()
        async with asyncio.timeout(2):
            errors = await asyncio.gather(*calls)
        assert [type(error) for error in errors] == [LinkLost, CallNotSent, CallNotSent]
        assert type(await ended(hub.call("worker", "work"))) is CallNotSent
        assert hub.pending == 0


async def test_a_thousand_first_calls_ask_one_question() -> None:
    """A storm of first calls to a service asks the broker once who is there; likewise when nobody is."""
    async with Bench() as bench, Puppet(bench.network, "worker", "worker-0") as puppet:
        hub = await bench.hub()
        asked = 0

        def count(delivery: object) -> None:
            nonlocal asked
            asked += 1

        await puppet.transport.consume(puppet.topology.discoveries("who.service.*"), count, timeout=5)
        calls = [asyncio.create_task(hub.call("worker", "work")) for _ in range(1000)]
        for _ in calls:
            puppet.answer(await puppet.next(), "done")
        assert {await call for call in calls} == {"done"}
        assert asked == 1


async def test_a_failed_first_call_does_not_spoil_the_next() -> None:
    """M10 (FastStream's reply lock): the first call is to a service that is not there; a hundred good ones after it succeed."""
    async with stage() as s:
        assert type(await ended(s.hub.call("nobody", "work"))) is NoInstance
        calls = [asyncio.create_task(s.hub.call("worker", "work", n)) for n in range(100)]
        for _ in calls:
            request = await s.puppet.next()
            s.puppet.answer(request, request.payload)
        assert [await call for call in calls] == list(range(100))
