"""Events at least once with retries and dead letters, duplicates, broadcasts, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from fabric import Service, current_call, on_broadcast, on_event
from fabric.errors import ConfigurationError, ConnectionLost, NotSent
from fabric.hub import Hub
from fabric.subscriber import matches
from fabric.testing import Bench
from fabric.transports.memory import MemoryTransport
from fabric.transports.topology import Topology
from tests.puppet import LIMIT, Puppet, eventually, turns

QUICK = (0.01,)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="fabric")


class Order(BaseModel):
    id: int


class Ledger(Service):
    """Takes orders; fails as often as it is told to."""

    name = "ledger"

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.attempts: list[int] = []
        self.fail = 0
        self.broadcasts: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @on_event("order.created", retry_delays=QUICK, max_attempts=3)
    async def created(self, order: Order) -> None:
        call = current_call()
        assert call is not None
        self.attempts.append(call.attempt)
        await self.gate.wait()
        if self.fail:
            self.fail -= 1
            raise RuntimeError("not today")
        self.seen.append(order.id)

    @on_broadcast("rates.#")
    async def rates(self, rates: dict[str, Any]) -> None:
        self.broadcasts.append(rates)
        if rates.get("fail"):
            raise RuntimeError("a bug")


@asynccontextmanager
async def ledger(count: int = 1) -> AsyncIterator[tuple[Bench, Hub, list[Ledger]]]:
    async with Bench() as bench:
        ledgers = [Ledger() for _ in range(count)]
        for each in ledgers:
            await bench.start(each)
        yield bench, await bench.hub(), ledgers
        for each in ledgers:
            each.gate.set()


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("#.c", "a.b.c", True),
        ("*.b.#", "a.b", True),
        ("a.#.z", "a.z", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.b", "axb", False),
        ("a.(b)", "a.(b)", True),
    ],
)
def test_topic_patterns_are_those_of_amqp(pattern: str, topic: str, fits: bool) -> None:
    """* is one word, # any number of words, everything else is itself."""
    assert matches(pattern, topic) is fits


async def test_each_event_goes_to_one_instance_of_each_subscribing_service() -> None:
    """A hundred events to three instances: each is handled once in all, checked against its type, and no instance is idle."""
    async with ledger(3) as (_, hub, ledgers):
        for n in range(100):
            await hub.publish("order.created", Order(id=n))
        await eventually(lambda: sum(len(each.seen) for each in ledgers) == 100)
        assert sorted(id for each in ledgers for id in each.seen) == list(range(100))
        assert all(each.seen for each in ledgers)


async def test_an_event_of_no_interest_is_not_delivered() -> None:
    """Only topics that match a pattern come."""
    async with ledger() as (_, hub, (book,)):
        await hub.publish("order.deleted", Order(id=1))
        await hub.publish("order.created", Order(id=2))
        await eventually(lambda: book.seen == [2])


async def test_a_failing_handler_gets_the_event_again() -> None:
    """An event whose handler raises comes again after its delay, with the attempt counted, until it is handled."""
    async with ledger() as (_, hub, (book,)):
        book.fail = 2
        await hub.publish("order.created", Order(id=1))
        await eventually(lambda: book.seen == [1])
        assert book.attempts == [1, 2, 3]
        assert await hub.dead_letters("ledger").list() == []


async def test_a_poison_event_becomes_a_dead_letter_with_reason_and_history() -> None:
    """M26 (faststream#1603): bounded attempts with a pause before each, then a dead letter that says why, each time."""
    async with ledger() as (_, hub, (book,)):
        book.fail = 99
        id = await hub.publish("order.created", Order(id=1))
        await eventually(lambda: len(book.attempts) == 3)
        letters = hub.dead_letters("ledger")
        async with asyncio.timeout(LIMIT):
            while not (found := await letters.list()):
                await turns(1)
        assert book.attempts == [1, 2, 3]
        assert (found[0].key, found[0].attempts) == ("order.created", 3)
        assert "RuntimeError: not today" in found[0].reason
        assert len(found[0].history) == 3
        book.fail = 0
        assert await letters.replay(found[0].id)
        await eventually(lambda: book.seen == [1])
        assert await letters.list() == []
        assert id


async def test_dead_letters_can_be_thrown_away() -> None:
    """A discarded dead letter is gone; discarding it twice says that it is not there."""
    async with ledger() as (_, hub, (book,)):
        book.fail = 99
        await hub.publish("order.created", Order(id=1))
        letters = hub.dead_letters("ledger")
        async with asyncio.timeout(LIMIT):
            while not (found := await letters.list()):
                await turns(1)
        assert await letters.discard(found[0].id)
        assert not await letters.discard(found[0].id)
        assert not await letters.replay(found[0].id)


@pytest.mark.parametrize("payload", [{"id": "x"}, {}, None, [1], 7])
async def test_what_does_not_fit_the_handler_is_dead_lettered_at_once(payload: Any) -> None:
    """M31 (dramatiq#848): an event of the wrong shape is not retried, since it will not fit later either."""
    async with ledger() as (_, hub, (book,)):
        await hub.publish("order.created", payload)
        letters = hub.dead_letters("ledger")
        async with asyncio.timeout(LIMIT):
            while not (found := await letters.list()):
                await turns(1)
        assert found[0].attempts == 1
        assert "does not fit" in found[0].reason
        assert book.attempts == []


async def test_bytes_that_are_no_message_are_dead_lettered() -> None:
    """M31 (dramatiq#848): hostile bytes on the events' exchange are dead-lettered, and the next event is handled."""
    async with ledger() as (bench, hub, (book,)), Puppet(bench.network, "x", "x") as puppet:
        await puppet.transport.send(puppet.topology.events, "order.created", b"\xc1\x00", timeout=LIMIT)
        await hub.publish("order.created", Order(id=1))
        await eventually(lambda: book.seen == [1])
        letters = await hub.dead_letters("ledger").list()
        assert [letter.body for letter in letters] == [b"\xc1\x00"]


async def test_a_validation_error_of_the_handlers_own_is_a_failure_not_a_misfit() -> None:
    """pydantic raising inside the handler's work is retried like any error: the event itself did fit."""

    class Nested(Service):
        name = "nested"

        def __init__(self) -> None:
            self.calls = 0

        @on_event("x", retry_delays=QUICK, max_attempts=3)
        async def take(self, event: dict[str, Any]) -> None:
            self.calls += 1
            if self.calls == 1:
                Order.model_validate({"id": "odd"})

    async with Bench() as bench:
        service = Nested()
        await bench.start(service)
        await (await bench.hub()).publish("x", {})
        await eventually(lambda: service.calls == 2)


async def test_a_cancelled_handler_gives_its_event_back() -> None:
    """A handler that ends as cancelled, by itself, does not keep the event: it comes again, and its place is free."""

    class Odd(Service):
        name = "odd"

        def __init__(self) -> None:
            self.calls = 0

        @on_event("x", retry_delays=QUICK, concurrency=1)
        async def take(self, event: int) -> None:
            self.calls += 1
            if self.calls == 1:
                raise asyncio.CancelledError

    async with Bench() as bench:
        service = Odd()
        await bench.start(service)
        await (await bench.hub()).publish("x", 1)
        await eventually(lambda: service.calls == 2)


async def test_a_handler_that_hangs_is_ended_and_its_event_comes_again() -> None:
    """A handler has a time limit of its own: past it the event counts as failed and its place is free."""

    class Stuck(Service):
        name = "stuck"

        def __init__(self) -> None:
            self.calls = 0

        @on_event("x", retry_delays=QUICK, timeout=0.05, max_attempts=2)
        async def take(self, event: int) -> None:
            self.calls += 1
            await asyncio.Event().wait()

    async with Bench() as bench:
        service = Stuck()
        await bench.start(service)
        hub = await bench.hub()
        await hub.publish("x", 1)
        letters = hub.dead_letters("stuck")
        async with asyncio.timeout(LIMIT):
            while not (found := await letters.list()):
                await turns(1)
        assert service.calls == 2
        assert "took longer than 0.05 s" in found[0].reason


async def test_a_reconnect_while_a_handler_runs_has_one_result() -> None:
    """M22 (taskiq-aio-pika#46): the link breaks, the broker delivers the event again while its handler still runs: it is not
    run twice, the new delivery is acknowledged in place of the old, and nothing is left to deliver."""
    async with ledger() as (bench, hub, (book,)):
        book.gate.clear()
        await hub.publish("order.created", Order(id=1))
        await eventually(lambda: book.attempts == [1])
        bench.cut(book.hub.instance)
        await book.hub.ping(timeout=LIMIT)
        await turns()
        book.gate.set()
        await eventually(lambda: book.seen == [1])
        await turns()
        bench.cut(book.hub.instance)
        await book.hub.ping(timeout=LIMIT)
        await turns()
        assert book.seen == [1]
        assert book.attempts == [1]


async def test_repeats_within_the_window_are_suppressed_where_asked_for() -> None:
    """unique_for suppresses an id that was handled; a failed one is not remembered, and another group decides for itself."""

    class Shop(Service):
        name = "shop"

        def __init__(self) -> None:
            self.once: list[int] = []
            self.each: list[int] = []
            self.fail = True

        @on_event("x", unique_for=60.0, retry_delays=QUICK)
        async def take(self, event: int) -> None:
            if self.fail:
                self.fail = False
                raise RuntimeError("once")
            self.once.append(event)

        @on_event("x", group="audit")
        async def audit(self, event: int) -> None:
            self.each.append(event)

    async with Bench() as bench:
        shop = Shop()
        await bench.start(shop)
        hub = await bench.hub()
        for _ in range(5):
            await hub.publish("x", 1, id="business-1")
        await hub.publish("x", 2, id="business-2")
        await eventually(lambda: sorted(shop.once) == [1, 2] and len(shop.each) == 6)


async def test_one_business_id_for_ten_thousand_events_loses_none() -> None:
    """M27 (aio-pika#689): without unique_for the id means nothing to us: all are confirmed and all are handled."""
    async with ledger() as (_, hub, (book,)):
        for start in range(0, 10_000, 1000):
            await asyncio.gather(*(hub.publish("order.created", Order(id=n), id="same") for n in range(start, start + 1000)))
        async with asyncio.timeout(30):
            while len(book.seen) < 10_000:
                await turns(1)
        assert sorted(book.seen) == list(range(10_000))


async def test_concurrency_bounds_what_runs_and_what_a_crash_gives_back() -> None:
    """With a concurrency of 5 an instance holds five events; when it dies, those go to another."""

    class Slow(Service):
        name = "slow"

        def __init__(self) -> None:
            self.gate = asyncio.Event()
            self.started = self.ended = 0

        @on_event("x", concurrency=5)
        async def take(self, event: int) -> None:
            self.started += 1
            await self.gate.wait()
            self.ended += 1

    async with Bench() as bench:
        first, second = Slow(), Slow()
        await bench.start(first)
        hub = await bench.hub()
        for n in range(12):
            await hub.publish("x", n)
        await turns()
        assert first.started == 5
        second.gate.set()
        await bench.start(second)
        await eventually(lambda: second.ended == 7)
        bench.kill(first.hub.instance)
        await eventually(lambda: second.ended == 12)
        first.gate.set()


async def test_stopping_lets_handlers_end_and_gives_back_what_does_not() -> None:
    """M25 (faststream#1648): running handlers end within the grace; one that does not is cancelled and its event handled
    elsewhere, also when the process lives on."""
    async with ledger(1) as (bench, hub, (book,)):
        book.gate.clear()
        await hub.publish("order.created", Order(id=1))
        await eventually(lambda: book.attempts == [1])
        other = Ledger()
        await bench.start(other)
        assert book.hub._served is not None
        assert not await book.hub._served.drain(0.05)
        await eventually(lambda: other.seen == [1])
        assert other.attempts == [2]


async def test_what_comes_while_closing_is_left_to_others() -> None:
    """Events published while an instance stops are handled by another, none is lost."""
    async with ledger(2) as (bench, hub, (first, second)):
        stopping = None
        for n in range(200):
            await hub.publish("order.created", Order(id=n))
            if n == 50:
                stopping = asyncio.create_task(bench.stop(first.hub.instance))
        assert stopping is not None
        await stopping
        await eventually(lambda: len(set(first.seen) | set(second.seen)) == 200)


async def test_published_means_stored() -> None:
    """With the broker down publish fails in its time as NotSent or ConnectionLost; what was published before is still there."""
    async with ledger() as (bench, hub, (book,)):
        await bench.stop(book.hub.instance)
        await hub.publish("order.created", Order(id=1))
        bench.network.go_down()
        with pytest.raises((NotSent, ConnectionLost)):
            await hub.publish("order.created", Order(id=2), timeout=0.1)
        bench.network.come_up()
        again = Ledger()
        await bench.start(again)
        await eventually(lambda: again.seen == [1])


async def test_a_broadcast_reaches_every_live_instance_that_listens() -> None:
    """Three instances get it, whoever fails on it; a topic of no interest reaches nobody."""
    async with ledger(3) as (_, hub, ledgers):
        assert hub.broadcast("rates.eur", {"fail": True})
        assert hub.broadcast("weather", {"rain": True})
        assert hub.broadcast("rates", {"n": 2})
        await eventually(lambda: all(len(each.broadcasts) == 2 for each in ledgers))
        assert all(each.broadcasts == [{"fail": True}, {"n": 2}] for each in ledgers)


async def test_a_broadcast_promises_nothing_and_says_so() -> None:
    """Dropped here already, because the link is down or the hub closed, is False and not an error."""
    async with Bench() as bench:
        hub = await bench.hub()
        bench.network.go_down()
        await turns()
        assert hub.broadcast("rates", {}) is False
    assert hub.broadcast("rates", {}) is False


def test_handlers_of_one_group_must_agree() -> None:
    """Two handlers on one queue can't have two retry schedules: refused when the service is made."""

    class Torn(Service):
        name = "torn"

        @on_event("a", max_attempts=3)
        async def a(self, event: int) -> None: ...

        @on_event("b", max_attempts=4)
        async def b(self, event: int) -> None: ...

    with pytest.raises(ConfigurationError, match="another group"):
        Torn()


async def test_doors_that_could_not_be_opened_can_be_tried_again() -> None:
    """When a queue can't be consumed open_doors fails as a whole, and succeeds once the obstacle is gone."""
    async with Bench() as bench, Hub.connect("ledger", transport=MemoryTransport(bench.network, Topology())) as hub:
        book = Ledger()
        served = await hub.serve(book)
        blocker = MemoryTransport(bench.network, Topology())
        await blocker.connect(timeout=LIMIT)
        queue = Topology().event_group("ledger", ("x",), prefetch=1, max_attempts=9, retry_delays=QUICK)
        consumer = await blocker.consume(queue, lambda _: None, timeout=LIMIT)
        with pytest.raises(Exception, match="other properties"):
            await served.open_doors()
        await consumer.aclose()
        assert queue.name is not None
        bench.network.delete_queue(queue.name)
        await served.open_doors()
        await hub.publish("order.created", Order(id=1))
        await eventually(lambda: book.seen == [1])
        await blocker.aclose()
