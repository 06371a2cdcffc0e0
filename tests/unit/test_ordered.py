"""Events of one key in order, whatever fails; different keys at the same time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from typing import Any

import pytest

from fabric import Service, current_call, on_event
from fabric.contract import EventOptions
from fabric.errors import ConfigurationError, TopologyConflict
from fabric.testing import Bench
from fabric.transports.base import QueueSpec
from fabric.transports.memory import MemoryTransport
from fabric.transports.topology import Topology
from tests.puppet import LIMIT, eventually, turns


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="fabric")


class Books(Service):
    """Notes what it handles by key, and fails by chance."""

    name = "books"

    def __init__(self, chance: random.Random | None = None, fail: float = 0.0) -> None:
        self.chance, self.fail = chance or random.Random(0), fail
        self.done: defaultdict[str, list[int]] = defaultdict(list)
        self.attempts: list[int] = []
        self.busy: set[str] = set()
        self.most_busy = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @on_event("entry.*", ordered=True, concurrency=3, retry_delays=(0.001,), max_attempts=50, timeout=30.0)
    async def entry(self, event: dict[str, Any]) -> None:
        key = event["key"]
        call = current_call()
        assert call is not None
        self.attempts.append(call.attempt)
        assert key not in self.busy, "two of one key at once"
        self.busy.add(key)
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            await self.gate.wait()
            for _ in range(self.chance.randrange(3)):
                await asyncio.sleep(0)
            if self.chance.random() < self.fail:
                raise RuntimeError("not now")
            self.done[key].append(event["n"])
        finally:
            self.busy.discard(key)


@pytest.mark.parametrize("seed", range(10))
async def test_order_under_random_failures(seed: int) -> None:
    """Many keys, a third of all attempts fails: each key's events are handled in order, each once, none lost, and different
    keys at the same time within the concurrency."""
    chance = random.Random(seed)
    books = Books(chance, fail=0.33)
    async with Bench() as bench:
        await bench.start(books)
        hub = await bench.hub()
        sent: defaultdict[str, list[int]] = defaultdict(list)
        for n in range(150):
            key = chance.choice("abcde")
            sent[key].append(n)
            await hub.publish("entry.made", {"key": key, "n": n}, key=key)
        await eventually(lambda: sum(map(len, books.done.values())) == 150)
        assert books.done == sent
        assert 1 < books.most_busy <= 3
        assert await hub.dead_letters("books", "default.ordered").list() == []


async def test_only_the_failing_key_waits_and_then_goes_on() -> None:
    """A poison event is tried in its place up to max_attempts, then is a dead letter with the reason; its key goes on then, and
    other keys do not wait for it."""

    class Picky(Service):
        name = "picky"

        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []
            self.tries: list[int] = []
            self.other = asyncio.Event()

        @on_event("x", ordered=True, retry_delays=(0.0,), max_attempts=3)
        async def take(self, event: dict[str, Any]) -> None:
            if event["n"] == 0:
                call = current_call()
                assert call is not None
                self.tries.append(call.attempt)
                await self.other.wait()
                raise RuntimeError("poison")
            self.seen.append((event["key"], event["n"]))
            if event["key"] == "b":
                self.other.set()

    async with Bench() as bench:
        picky = Picky()
        await bench.start(picky)
        hub = await bench.hub()
        for key, n in (("a", 0), ("a", 1), ("a", 2), ("b", 1)):
            await hub.publish("x", {"key": key, "n": n}, key=key)
        await eventually(lambda: len(picky.seen) == 3)
        assert picky.seen == [("b", 1), ("a", 1), ("a", 2)]
        assert picky.tries == [1, 2, 3]
        (letter,) = await hub.dead_letters("picky", "default.ordered").list()
        assert letter.reason == "RuntimeError: poison (attempt 3 of 3)"


async def test_a_misfit_does_not_hold_its_key_up() -> None:
    """M31 (dramatiq#848): bytes that are no message, and an event of the wrong shape, are dead-lettered at once."""
    async with Bench() as bench:
        books = Books()
        await bench.start(books)
        hub = await bench.hub()
        await hub.transport.send(hub.topology.events, "entry.made", b"\xc1", timeout=LIMIT)
        await hub.publish("entry.made", [1], key="a")
        await hub.publish("entry.made", {"key": "a", "n": 1}, key="a")
        await eventually(lambda: books.done["a"] == [1])
        assert len(await hub.dead_letters("books", "default.ordered").list()) == 2


async def test_events_without_a_key_wait_for_nothing() -> None:
    """Each is a key of its own: as many run at once as the concurrency allows."""
    async with Bench() as bench:
        books = Books()
        books.gate.clear()
        await bench.start(books)
        hub = await bench.hub()
        for n in range(5):
            await hub.publish("entry.made", {"key": str(n), "n": n})
        await eventually(lambda: len(books.busy) == 3)
        await turns()
        assert len(books.busy) == 3
        books.gate.set()
        await eventually(lambda: len(books.done) == 5)


async def test_a_successor_goes_on_in_order() -> None:
    """One instance of two gets everything; when it is killed in the middle the other goes on with what was not settled."""
    async with Bench() as bench:
        first, second = Books(), Books()
        await bench.start(first)
        await bench.start(second)
        hub = await bench.hub()
        for n in range(3):
            await hub.publish("entry.made", {"key": "a", "n": n}, key="a")
        await eventually(lambda: first.done["a"] == [0, 1, 2])
        first.gate.clear()
        for n in range(3, 40):
            await hub.publish("entry.made", {"key": "a", "n": n}, key="a")
        await eventually(lambda: first.busy == {"a"})
        assert not second.done
        bench.kill(first.hub.instance)
        await eventually(lambda: second.done["a"] == list(range(3, 40)))
        first.gate.set()
        await turns()
        assert first.done["a"] == [0, 1, 2, 3]


async def test_an_orderly_stop_hands_over_in_order() -> None:
    """An instance that stops ends what runs and gives back what waits: the successor goes on behind that, and nothing that was
    published later overtakes it."""
    async with Bench() as bench:
        first, second = Books(), Books()
        first.gate.clear()
        await bench.start(first)
        await bench.start(second)
        hub = await bench.hub()
        for n in range(60):
            await hub.publish("entry.made", {"key": "a", "n": n}, key="a")
        await eventually(lambda: first.busy == {"a"})
        stopping = asyncio.create_task(bench.stop(first.hub.instance))
        await turns()
        assert not second.done
        first.gate.set()
        await stopping
        await eventually(lambda: len(first.done["a"]) + len(second.done["a"]) == 60)
        assert first.done["a"] + second.done["a"] == list(range(60))
        assert first.done["a"]


async def test_a_reconnect_keeps_the_order() -> None:
    """M22 (taskiq-aio-pika#46): the link breaks again and again while events are handled: each key's events are handled in
    order and once."""
    async with Bench() as bench:
        books = Books()
        await bench.start(books)
        hub = await bench.hub()
        for n in range(60):
            await hub.publish("entry.made", {"key": "ab"[n % 2], "n": n}, key="ab"[n % 2])
            if n % 20 == 10:
                bench.cut(books.hub.instance)
                await books.hub.ping(timeout=LIMIT)
        await eventually(lambda: sum(map(len, books.done.values())) == 60)
        assert books.done == {"a": list(range(0, 60, 2)), "b": list(range(1, 60, 2))}


async def test_a_delayed_event_has_its_place_when_it_is_due() -> None:
    """Key and delay go together: the event is ordered by when it is due."""
    async with Bench() as bench:
        books = Books()
        await bench.start(books)
        hub = await bench.hub()
        await hub.publish("entry.made", {"key": "a", "n": 1}, key="a", delay=0.05)
        await hub.publish("entry.made", {"key": "a", "n": 2}, key="a")
        await eventually(lambda: books.done["a"] == [2, 1])


@pytest.mark.parametrize(
    "options", [{"delay": 0}, {"delay": -1.0}, {"delay": 604_801.0}, {"key": ""}, {"key": "x" * 256}, {"key": 7}]
)
async def test_bad_options_of_publish_are_refused(options: dict[str, Any]) -> None:
    """A delay that is none, or a key that is none, is a mistake to be mended and not an event."""
    async with Bench() as bench:
        with pytest.raises(ConfigurationError):
            await (await bench.hub()).publish("x", 1, **options)


def test_what_is_ordered_must_end_before_the_broker_loses_patience() -> None:
    """RabbitMQ closes a channel on which a delivery is not acknowledged for 30 minutes, so all attempts have to fit in."""
    assert EventOptions(patterns=("x",), ordered=True).longest == pytest.approx(1536.2)
    with pytest.raises(ConfigurationError, match="1800"):
        EventOptions(patterns=("x",), ordered=True, max_attempts=6)


async def test_an_ordered_queue_is_another_queue() -> None:
    """Its name has a suffix, as the property can't be changed; consuming it as something else is refused."""
    topology = Topology()
    plain = topology.event_group("s", ("x",), prefetch=1, max_attempts=5, retry_delays=(1.0,))
    ordered = topology.event_group("s", ("x",), prefetch=1, max_attempts=5, retry_delays=(1.0,), ordered=True)
    assert (ordered.name, ordered.single) == (f"{plain.name}.ordered", True)
    with pytest.raises(ValueError, match="durable"):
        QueueSpec(name="q", single=True)
    async with Bench() as bench:
        link = MemoryTransport(bench.network, topology)
        await link.connect(timeout=LIMIT)
        await link.consume(ordered, lambda _: None, timeout=LIMIT)
        odd = QueueSpec(name=ordered.name, durable=True, ack=True)
        with pytest.raises(TopologyConflict, match="single"):
            await link.consume(odd, lambda _: None, timeout=LIMIT)
        await link.aclose()
