"""RabbitMQ restarted under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from fabric import Service, rpc
from fabric.errors import CallError
from fabric.hub import Hub
from fabric.workers import MOST_IDLE
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend
from tests.integration.conftest import fleet_on
from tests.puppet import eventually

PENDING = 100
A_SECOND = 1000
TIMEOUT = 20.0
ENDS = {"answered", "InstanceLost", "LinkLost", "NoInstance", "CallNotSent", "Overloaded", "CircuitOpen", "DeadlineExceeded"}
"""On a slow machine so many are lost that the breaker opens."""


class Mill(Service):
    name = "mill"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.holds = 0
        self.ran: Counter[int] = Counter()

    @rpc()
    async def hold(self) -> str:
        self.holds += 1
        await self.gate.wait()
        return "held"

    @rpc()
    async def grind(self, number: int) -> int:
        self.ran[number] += 1
        return number


@dataclass
class Load:
    """Calls in an open loop: the next one does not wait for the last one.

    Attributes:
        ended: by what, for how many.
        slowest: seconds of the call that took longest.
        number: of calls.
    """

    hub: Hub
    ended: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    number: int = 0
    stop: bool = False

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        async with asyncio.TaskGroup() as calls:
            while not self.stop:
                while self.number < (clock() - began) * A_SECOND:
                    calls.create_task(self.call(self.number))
                    self.number += 1
                await asyncio.sleep(0.002)

    async def call(self, number: int) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answer = await self.hub.call("mill", "grind", {"number": number}, timeout=TIMEOUT)
        except CallError as error:
            self.ended[type(error).__name__] += 1
        else:
            assert answer == number
            self.ended["answered"] += 1
        self.slowest = max(self.slowest, clock() - began)


async def held(hub: Hub) -> str:
    try:
        return str(await hub.call("mill", "hold", timeout=TIMEOUT))
    except CallError as error:
        return type(error).__name__


def busy() -> set[asyncio.Task[Any]]:
    """All tasks but those that run handlers, or are kept for that."""
    return {task for task in asyncio.all_tasks() if not task.get_name().endswith(" handlers")}


@pytest.mark.slow
async def test_a_thousand_calls_a_second_over_a_restart(amqp: AmqpBackend, private_broker: BrokerNode) -> None:
    """M1 (aio-pika#231, #588, faststream#2758): with 100 calls pending and 1,000 more a second the broker is restarted: every
    call ends typed or with its answer before its deadline, none runs twice, all consumers are back, and no task is left but the
    few that instances keep to run handlers."""
    async with fleet_on(amqp) as fleet:
        mills = [Mill(), Mill()]
        for mill in mills:
            await fleet.start(mill)
        hub = await fleet.bench.hub()
        assert await hub.call("mill", "grind", {"number": -1}) == -1
        await eventually(lambda: len(hub.registry.instances("mill")) == len(mills))  # one alone does not run so many at once
        idle = len(busy())
        load = Load(hub)
        pending = [asyncio.create_task(held(hub)) for _ in range(PENDING)]
        await eventually(lambda: sum(mill.holds for mill in mills) == PENDING)
        loading = asyncio.create_task(load.run())
        await eventually(lambda: load.ended["answered"] > A_SECOND)
        await amqp.restart()
        answered = load.ended["answered"]
        for mill in mills:
            mill.gate.set()
        async with asyncio.timeout(30):
            while load.ended["answered"] < answered + A_SECOND:
                await asyncio.sleep(0.05)
        load.stop = True
        async with asyncio.timeout(2 * TIMEOUT):
            await loading
            outcomes = set(await asyncio.gather(*pending))
        assert load.ended.total() == load.number
        assert set(load.ended) <= ENDS, load.ended
        assert outcomes <= {"held", "InstanceLost", "LinkLost", "DeadlineExceeded"}, outcomes
        assert load.slowest < TIMEOUT + 1.0
        assert max((mills[0].ran + mills[1].ran).values()) == 1
        async with asyncio.timeout(60):
            while len(busy()) > idle:
                await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks() - busy()) <= len(mills) * MOST_IDLE
        assert hub.pending == 0
