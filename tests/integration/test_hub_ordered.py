"""Ordered and delayed events between whole hubs, on every kind of broker."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import Any

import pytest

from fabric import Service, on_event
from tests.integration.conftest import Fleet
from tests.puppet import eventually


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="fabric")


class Desk(Service):
    """Takes orders of customers, one customer's one after the other; the third of each fails once."""

    name = "desk"

    def __init__(self) -> None:
        self.done: defaultdict[str, list[int]] = defaultdict(list)
        self.failed: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    @on_event("order.*", ordered=True, concurrency=4, retry_delays=(0.01,))
    async def order(self, event: dict[str, Any]) -> None:
        customer, n = event["customer"], event["n"]
        await self.gate.wait()
        if n == 2 and customer not in self.failed:
            self.failed.add(customer)
            raise RuntimeError("once")
        self.done[customer].append(n)


async def test_the_order_of_each_key_over_the_loss_of_an_instance(fleet: Fleet) -> None:
    """Two instances, one of them killed with events under way and others waiting: each customer's events are handled in order,
    first by the one, then by the other, and none is lost."""
    desks = [Desk(), Desk()]
    hubs = [await fleet.start(desk) for desk in desks]
    publisher = await fleet.bench.hub()
    customers = ("anna", "bert", "cleo")

    async def publish(numbers: range) -> None:
        for n in numbers:
            for customer in customers:
                await publisher.publish("order.made", {"customer": customer, "n": n}, key=customer)

    await publish(range(5))
    await eventually(lambda: sum(len(done) for desk in desks for done in desk.done.values()) == 15)
    (active,) = [number for number, desk in enumerate(desks) if desk.done]
    assert desks[active].done == {customer: list(range(5)) for customer in customers}
    desks[active].gate.clear()
    await publish(range(5, 15))
    successor = desks[1 - active]
    assert not successor.done
    await fleet.kill(hubs[active])
    await eventually(lambda: sum(map(len, successor.done.values())) == 30)
    assert successor.done == {customer: list(range(5, 15)) for customer in customers}
    desks[active].gate.set()


async def test_a_delayed_event_of_a_hub(fleet: Fleet) -> None:
    """``hub.publish(delay=...)``: what is published after it is handled before it."""
    desk = Desk()
    await fleet.start(desk)
    publisher = await fleet.bench.hub()
    await publisher.publish("order.made", {"customer": "anna", "n": 1}, key="anna", delay=1.0)
    await publisher.publish("order.made", {"customer": "anna", "n": 5}, key="anna")
    await eventually(lambda: desk.done["anna"] == [5])
    await eventually(lambda: desk.done["anna"] == [5, 1])
