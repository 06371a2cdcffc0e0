"""The log while somebody sends rubbish."""

from __future__ import annotations

import asyncio
import logging

import pytest

from fabric import Service, on_event, rpc
from fabric.clock import VirtualClock
from fabric.refusals import PAUSE, Refusals
from fabric.testing import Bench
from fabric.wire import batch

_RUBBISH = 500


class Store(Service):
    name = "store"

    @rpc()
    async def sell(self) -> str:
        return "sold"

    @on_event("order.*")
    async def order(self, number: int) -> None: ...


def test_one_line_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    """M31 (dramatiq#848): of a thousand refusals in one second one is logged at once, and the next line counts the rest."""
    clock = VirtualClock()
    refusals = Refusals(logging.getLogger("fabric.test"), clock)
    for number in range(1000):
        refusals.tell("%s refused %d", "store", number)
    asyncio.run(clock.advance(PAUSE))
    refusals.tell("%s refused %d", "store", 1000)
    assert [record.getMessage() for record in caplog.records] == [
        "store refused 0",
        "store refused 1000 (and 999 more before it)",
    ]


@pytest.mark.parametrize("place", ["requests", "answers", "discovery", "events"])
async def test_a_hostile_batch_does_not_fill_the_log(caplog: pytest.LogCaptureFixture, place: str) -> None:
    """M31 (dramatiq#848): one body with thousands of messages that are none is a line or two, not thousands, and what comes
    after it is handled."""
    async with Bench() as bench:
        agent = await bench.start(Store())
        sender = await bench.hub("mallory")
        names = sender.topology
        receiver = await bench.hub("caller")
        exchange, key = {
            "requests": (names.rpc, agent.instance),
            "answers": (names.rpc, receiver._me.address),
            "discovery": (names.discovery, "who.everyone"),
            "events": (names.events, "order.made"),
        }[place]
        body = batch.join([b"\xc1" * 50] * _RUBBISH)
        caplog.clear()
        await sender.transport.send(exchange, key, body, timeout=5, content_type=batch.BATCH, mandatory=True)
        assert await sender.call("store", "sell") == "sold"
        if place == "events":
            async with asyncio.timeout(60):
                while len(await sender.dead_letters("store").list(limit=_RUBBISH)) < _RUBBISH:
                    await asyncio.sleep(0.05)
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert 1 <= len(warnings) <= 20
