"""Answers that are too large, too many, or read too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fabric import Service, rpc
from fabric.errors import RemoteError
from tests.integration.conftest import Fleet

PARTS = 50_000


class Library(Service):
    name = "library"

    def __init__(self) -> None:
        self.made = 0

    @rpc()
    async def book(self, megabytes: int) -> bytes:
        return b"x" * (megabytes * 1_000_000)

    @rpc(timeout=60.0)
    async def pages(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            self.made += 1
            yield number


async def test_an_answer_of_twenty_megabytes_is_a_typed_error(fleet: Fleet) -> None:
    """M30 (nats.py#667): it is refused where it was made, the caller learns its size at once, and the next call works."""
    await fleet.start(Library())
    hub = await fleet.bench.hub()
    with pytest.raises(RemoteError) as caught:
        await hub.call("library", "book", {"megabytes": 20}, timeout=10.0)
    assert caught.value.type == "PayloadTooLarge"
    assert "20000" in str(caught.value)
    assert len(await hub.call("library", "book", {"megabytes": 1}, timeout=10.0)) == 1_000_000


async def test_many_parts_come_whole_and_in_order(fleet: Fleet) -> None:
    """M30: a stream of fifty thousand answers loses none."""
    await fleet.start(Library())
    hub = await fleet.bench.hub()
    expected = 0
    async for part in hub.stream("library", "pages", {"count": PARTS}, returns=int, timeout=60.0):
        assert part == expected
        expected += 1
    assert expected == PARTS


async def test_a_slow_reader_holds_the_writer_back(fleet: Fleet) -> None:
    """M30: what nobody has room for is not made: the handler waits for its reader, and goes on when it reads."""
    library = Library()
    await fleet.start(library)
    hub = await fleet.bench.hub()
    parts = hub.stream("library", "pages", {"count": PARTS}, returns=int, timeout=60.0)
    assert await anext(parts) == 0
    made = -1
    async with asyncio.timeout(10):
        while made != library.made:  # until it has stopped making more
            made = library.made
            await asyncio.sleep(0.3)
    assert made < PARTS // 10
    assert [await anext(parts) for _ in range(made)] == list(range(1, made + 1))
    await parts.aclose()
