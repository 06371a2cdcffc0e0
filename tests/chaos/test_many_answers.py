"""A million answers to one call."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fabric import Service, rpc
from tests.contract.backend_amqp import AmqpBackend
from tests.integration.conftest import fleet_on

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(600)]

PARTS = 1_000_000


class Counter(Service):
    name = "counter"

    @rpc(timeout=550.0)
    async def numbers(self) -> AsyncIterator[int]:
        for number in range(PARTS):
            yield number


async def test_a_million_answers(amqp: AmqpBackend) -> None:
    """M30 (nats.py#667): a million answers over RabbitMQ come whole and in order; there is no silent stop."""
    async with fleet_on(amqp) as fleet:
        await fleet.start(Counter())
        hub = await fleet.bench.hub()
        expected = 0
        async for part in hub.stream("counter", "numbers", returns=int, timeout=550.0):
            assert part == expected
            expected += 1
    assert expected == PARTS
