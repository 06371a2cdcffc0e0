"""The keeper of the broker: its state, and the events that were given up."""

from __future__ import annotations

import asyncio

import pytest

from fabric import Hub, Service, on_event
from fabric.testing import Bench
from fabric.transports.base import LinkState, Transport
from services.todo.broker import MessageBroker


class Picky(Service):
    """Gives up what is not "good", until it is told to take everything."""

    name = "picky"

    def __init__(self) -> None:
        self.taken: asyncio.Queue[str] = asyncio.Queue()
        self.tried: asyncio.Queue[str] = asyncio.Queue()
        self.strict = True

    @on_event("meal.served", max_attempts=2, retry_delays=(0.01,))
    async def eat(self, meal: dict[str, str]) -> None:
        self.tried.put_nowait(meal["name"])
        if self.strict and meal["name"] != "good":
            raise ValueError(f"{meal['name']} is not good")
        self.taken.put_nowait(meal["name"])


@pytest.fixture
async def broker(bench: Bench, hub: Hub) -> MessageBroker:
    await bench.start(MessageBroker())
    return hub.proxy(MessageBroker)


async def _dead(broker: MessageBroker, count: int) -> list[str]:
    """The ids of the dead letters, once there are so many."""
    async with asyncio.timeout(10):
        while True:
            letters = await broker.dead_letters("picky")
            if len(letters) >= count:
                return [letter.id for letter in letters]


async def _until(transport: Transport, state: LinkState) -> None:
    came = asyncio.Event()
    unwatch = transport.watch(lambda event: came.set() if event.state is state else None)
    if transport.state is not state:
        async with asyncio.timeout(10):
            await came.wait()
    unwatch()


async def test_it_tells_the_state_of_the_broker(broker: MessageBroker) -> None:
    """The link is ready, and a round trip was measured."""
    facts = await broker.status()
    assert (facts.transport, facts.state, facts.epoch) == ("memory", "ready", 1)
    assert facts.round_trip is not None


async def test_given_up_events_can_be_read_replayed_and_discarded(bench: Bench, hub: Hub, broker: MessageBroker) -> None:
    """M26 (faststream#1603): a poison event ends among the dead letters with topic, payload, reason and attempts; replayed it
    is delivered anew, discarded it is gone."""
    picky = Picky()
    await bench.start(picky)
    for name in ("bad", "worse", "good"):
        await hub.publish("meal.served", {"name": name})
    assert await picky.taken.get() == "good"
    ids = await _dead(broker, 2)
    letters = {letter.id: letter for letter in await broker.dead_letters("picky")}
    by_name = {letter.payload["name"]: letter for letter in letters.values()}
    assert sorted(by_name) == ["bad", "worse"]
    assert (by_name["bad"].topic, by_name["bad"].attempts) == ("meal.served", 2)
    assert "bad is not good" in by_name["bad"].reason
    assert len(by_name["bad"].history) == 2
    picky.strict = False
    assert await broker.replay("picky", by_name["bad"].id)
    assert await picky.taken.get() == "bad"
    assert await broker.discard("picky", by_name["worse"].id)
    assert not await broker.discard("picky", by_name["worse"].id)
    assert await broker.dead_letters("picky") == []
    assert len(ids) == 2


async def test_all_can_be_replayed_at_once(bench: Bench, hub: Hub, broker: MessageBroker) -> None:
    """In the order in which they died, and once more dead when nothing has changed."""
    picky = Picky()
    await bench.start(picky)
    for name in ("one", "two"):
        await hub.publish("meal.served", {"name": name})
    await _dead(broker, 2)
    assert await broker.replay_all("picky") == 2
    await _dead(broker, 2)
    picky.strict = False
    assert await broker.replay_all("picky") == 2
    assert sorted([await picky.taken.get(), await picky.taken.get()]) == ["one", "two"]


async def test_a_blocked_broker_is_not_healthy(bench: Bench) -> None:
    """M11: while the broker has a memory alarm the health check says so and what to do; afterwards it is well again."""
    keeper = MessageBroker()
    await bench.start(keeper)
    bench.network.block()
    await _until(keeper.hub.transport, LinkState.BLOCKED)
    health = await keeper.check_health()
    assert not health.is_ok
    assert "alarm" in health.reason
    bench.network.unblock()
    await _until(keeper.hub.transport, LinkState.READY)
    assert (await keeper.check_health()).is_ok
    assert [change.state for change in (await keeper.status()).changes] == ["blocked", "ready"]
