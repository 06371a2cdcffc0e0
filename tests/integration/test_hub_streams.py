"""Answers in parts mean the same on every broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from fabric import Hub, Service, rpc
from fabric.errors import DeadlineExceeded, InstanceLost, LinkLost
from tests.contract.backends import Ability
from tests.integration.conftest import Fleet
from tests.puppet import eventually


class Press(Service):
    name = "press"

    def __init__(self) -> None:
        self.made = self.closed = 0

    @rpc()
    async def pages(self, count: int, size: int = 1) -> AsyncIterator[bytes]:
        try:
            for n in range(count):
                self.made += 1
                yield n.to_bytes(4, "big") + b"x" * size
        finally:
            self.closed += 1

    @rpc()
    async def slowly(self) -> AsyncIterator[int]:
        try:
            for n in range(10_000):
                yield n
                await asyncio.sleep(0.01)
        finally:
            self.closed += 1


async def test_many_small_parts_and_few_large_ones(fleet: Fleet) -> None:
    """M30 (nats.py#667): twenty thousand small parts, and twenty megabytes in large ones, arrive whole and in order."""
    await fleet.start(Press())
    hub = await fleet.bench.hub()
    for count, size, window in ((20_000, 1, 500), (20, 1_000_000, 4)):
        expected = 0
        async for page in hub.stream("press", "pages", {"count": count, "size": size}, window=window, timeout=60.0):
            assert (int.from_bytes(page[:4], "big"), len(page)) == (expected, size + 4)
            expected += 1
        assert expected == count


async def test_a_slow_reader_holds_the_maker_up(fleet: Fleet) -> None:
    """M30 (nats.py#667): the maker is never ahead by more than the window, and goes on when there is room."""
    press = Press()
    await fleet.start(press)
    hub = await fleet.bench.hub()
    async with hub.stream("press", "pages", {"count": 200}, window=8) as pages:
        await anext(pages)
        await asyncio.sleep(0.2)
        assert press.made <= 10
        assert len([page async for page in pages]) == 199


async def test_leaving_and_running_out_of_time_stop_the_maker(fleet: Fleet) -> None:
    """M19 (moleculer#904): a reader that leaves, or whose time is up, stops the method."""
    press = Press()
    await fleet.start(press)
    hub = await fleet.bench.hub()
    async with hub.stream("press", "slowly", timeout=30.0) as numbers:
        await anext(numbers)
    await eventually(lambda: press.closed == 1)
    with pytest.raises(DeadlineExceeded):
        await _read(hub, timeout=1.0)
    await eventually(lambda: press.closed == 2)


async def _read(hub: Hub, *, timeout: float) -> None:
    async for _ in hub.stream("press", "slowly", timeout=timeout):
        pass


async def test_a_killed_maker_is_noticed(fleet: Fleet) -> None:
    """M30 (nats.py#667): the instance dies in the middle of a stream: a typed error, within seconds."""
    served = await fleet.start(Press())
    hub = await fleet.bench.hub()
    numbers = hub.stream("press", "slowly", timeout=60.0)
    await anext(numbers)
    await fleet.kill(served)
    async with asyncio.timeout(10):
        with suppress(InstanceLost):
            async for _ in numbers:
                pass
            pytest.fail("it can't have ended well")


@pytest.mark.needs(Ability.CUT)
@pytest.mark.parametrize("victim", ["reader", "maker"])
async def test_a_cut_link_loses_no_part_unnoticed(fleet: Fleet, victim: str) -> None:
    """M30 (nats.py#667): a link breaks in the middle: what is read has no gap, and the stream goes on or ends typed."""
    served = await fleet.start(Press())
    hub = await fleet.bench.hub()
    got: list[int] = []
    async with asyncio.timeout(20):
        with suppress(InstanceLost, LinkLost):
            async for n in hub.stream("press", "slowly", timeout=15.0):
                got.append(n)
                if n == 20:
                    await fleet.cut(hub if victim == "reader" else served)
                if n == 300:
                    break
    assert got == list(range(len(got)))
    assert len(got) > 20
