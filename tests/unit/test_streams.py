"""Answers in parts: in order, no faster than they are read, ended typed, and stopped when nobody reads on."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel

from fabric import Service, ServiceError, rpc
from fabric.errors import (
    CallError,
    CallNotSent,
    ConfigurationError,
    DeadlineExceeded,
    InstanceLost,
    LinkLost,
    NoInstance,
    RemoteError,
    ValidationFailed,
)
from fabric.inflow import Stream
from fabric.routing import outcomes
from fabric.testing import Bench
from fabric.wire.message import MessageType
from tests.puppet import Puppet, eventually, turns


class Row(BaseModel):
    n: int


class Table(Service):
    name = "table"
    capabilities = ("rows",)

    def __init__(self) -> None:
        self.made = 0
        self.closed = 0

    @rpc(idempotent=True)
    async def rows(self, count: int, wrong_at: int = -1, fail_at: int = -1) -> AsyncIterator[Row]:
        try:
            for n in range(count):
                if n == fail_at:
                    raise ServiceError("no more", code="table.end")
                self.made += 1
                yield {"n": "x"} if n == wrong_at else Row(n=n)  # type: ignore[misc]
        finally:
            self.closed += 1

    @rpc()
    async def chunks(self, size: int, count: int) -> AsyncIterator[bytes]:
        for n in range(count):
            yield bytes([n % 256]) * size

    @rpc()
    async def slow(self) -> AsyncIterator[int]:
        try:
            for n in range(1000):
                yield n
                await asyncio.sleep(0.02)
        finally:
            self.closed += 1

    @rpc()
    async def whole(self) -> int:
        return 7

    @rpc()
    async def blob(self, size: int) -> bytes:
        return b"x" * size


async def read(stream: Stream[Any]) -> tuple[list[Any], CallError | None]:
    """All parts, and what ended them."""
    parts = []
    try:
        async for part in stream:
            parts.append(part)  # noqa: PERF401  those before an error count
    except CallError as error:
        return parts, error
    return parts, None


async def test_parts_come_in_order_and_typed() -> None:
    """Every part is checked and given as its type, in the order in which it was made; by proxy and capability too."""
    async with Bench() as bench:
        await bench.start(Table())
        hub = await bench.hub()
        assert [row.n async for row in hub.stream("table", "rows", {"count": 500}, returns=Row)] == list(range(500))
        assert [row.n async for row in hub.proxy(Table).rows(5)] == [0, 1, 2, 3, 4]
        assert [row async for row in hub.stream("capability:rows", "rows", {"count": 1})] == [{"n": 0}]
        assert [row async for row in hub.stream("table", "rows", {"count": 0})] == []
        assert hub.pending == 0


async def test_a_slow_reader_holds_the_maker_up() -> None:
    """M30 (nats.py#667): no more parts are made than there is room for; reading on makes more, none is lost."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        async with hub.stream("table", "rows", {"count": 1000}, window=10) as rows:
            assert await anext(rows) == {"n": 0}
            await turns(50)
            assert table.made <= 12
            assert [row["n"] async for row in rows] == list(range(1, 1000))
        assert table.made == 1000


async def test_a_million_parts() -> None:
    """M30 (nats.py#667): far more parts than any buffer: all of them, in order, with a bounded number in memory."""
    count = 100_000  # a tenth of it shows the same in a tenth of the time

    class Counter(Service):
        name = "counter"

        @rpc()
        async def count(self, upto: int) -> AsyncIterator[int]:
            for n in range(upto):
                yield n

    async with Bench() as bench:
        await bench.start(Counter())
        hub = await bench.hub()
        expected = 0
        async for n in hub.stream("counter", "count", {"upto": count}, window=1000, timeout=60.0):
            assert n == expected
            expected += 1
        assert expected == count


async def test_a_quick_maker_does_not_keep_the_loop() -> None:
    """With room for everything, and parts that are made without waiting, other calls to the instance still get their turn."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        stream = hub.stream("table", "rows", {"count": 20_000}, window=100_000)
        await anext(stream)
        assert await hub.call("table", "whole") == 7
        assert table.made < 20_000
        await stream.aclose()


async def test_a_large_answer_is_refused_whole_and_comes_in_parts() -> None:
    """M30 (nats.py#667): twenty megabytes are too large for one answer, which says so; in parts they arrive."""
    async with Bench() as bench:
        await bench.start(Table())
        hub = await bench.hub()
        with pytest.raises(RemoteError, match="over the limit") as caught:
            await hub.call("table", "blob", {"size": 20_000_000})
        assert caught.value.type == "PayloadTooLarge"
        total = 0
        async for chunk in hub.stream("table", "chunks", {"size": 1_000_000, "count": 20}, window=4, returns=bytes):
            total += len(chunk)
        assert total == 20_000_000


async def test_a_part_that_is_too_large_ends_the_stream_typed() -> None:
    """A single part over the limit is an error at its place, after the parts before it."""

    class Odd(Service):
        name = "odd"

        @rpc()
        async def parts(self) -> AsyncIterator[bytes]:
            yield b"small"
            yield b"x" * 20_000_000

    async with Bench() as bench:
        await bench.start(Odd())
        stream = (await bench.hub()).stream("odd", "parts")
        assert await anext(stream) == b"small"
        with pytest.raises(RemoteError, match="over the limit"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_failure_in_the_middle_comes_after_the_parts_before_it(caplog: pytest.LogCaptureFixture) -> None:
    """What was made before the method failed is read first; then the failure has its code."""
    caplog.set_level(logging.CRITICAL)
    async with Bench() as bench:
        await bench.start(Table())
        hub = await bench.hub()
        got, error = await read(hub.stream("table", "rows", {"count": 9, "fail_at": 3}))
        assert got == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert isinstance(error, RemoteError)
        assert error.code == "table.end"
        got, error = await read(hub.stream("table", "rows", {"count": 9, "wrong_at": 1}))
        assert got == [{"n": 0}]
        assert isinstance(error, ValidationFailed)
        assert error.executed is True
        assert isinstance((await read(hub.stream("table", "rows", {"count": "many"})))[1], ValidationFailed)
        assert hub.pending == 0


async def test_leaving_early_stops_the_maker() -> None:
    """M19 (moleculer#904): break, async with, or just dropping the stream cancels the method, and nothing is left."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        async for _ in hub.stream("table", "slow"):
            break
        gc.collect()
        await eventually(lambda: table.closed == 1)
        async with hub.stream("table", "slow") as parts:
            await anext(parts)
        await eventually(lambda: table.closed == 2)
        reader = asyncio.create_task(anext(hub.stream("table", "slow", timeout=30.0)))
        await reader
        del reader
        gc.collect()
        await eventually(lambda: table.closed == 3)
        assert hub.pending == 0


async def test_a_cancelled_reader_can_read_on_or_leave() -> None:
    """Cancelling one step, as a timeout around it does, loses no part; closing afterwards stops the maker."""
    async with Bench() as bench, Puppet(bench.network, "table", "table-0") as puppet:
        hub = await bench.hub()
        stream = hub.stream("table", "rows", window=4)
        first: asyncio.Task[Any] = asyncio.create_task(anext(stream))
        request = await puppet.next()
        puppet.say(request, MessageType.STREAM_ITEM, "one")
        assert await first == "one"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.02)
        message = request._replace(type=MessageType.STREAM_ITEM)
        puppet.say(message, MessageType.STREAM_ITEM, "lost number")
        with pytest.raises(LinkLost, match="part 2 was lost"):
            await anext(stream)
        assert (await puppet.next(MessageType.CANCEL)).correlation_id == request.id


async def test_the_time_limit_is_of_the_whole_stream() -> None:
    """M30 (nats.py#667): a stream that takes longer than its time ends as DeadlineExceeded, and its maker is stopped."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        await hub.find("table")
        got, error = await read(hub.stream("table", "slow", timeout=0.2))
        assert isinstance(error, DeadlineExceeded)
        assert 1 <= len(got) <= 12
        await eventually(lambda: table.closed == 1)
        assert hub.pending == 0


async def test_the_maker_dies() -> None:
    """M30 (nats.py#667): an instance that is killed in the middle of a stream is noticed: a typed error, never a silent stop."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        stream = hub.stream("table", "slow", timeout=60.0)
        await anext(stream)
        bench.kill(table.hub.instance)
        assert isinstance((await read(stream))[1], InstanceLost)


async def test_a_reconnect_loses_no_part_unnoticed() -> None:
    """M30 (nats.py#667): the reader's or the maker's link breaks in the middle: either all parts come, or a typed error does."""
    for victim in ("reader", "maker"):
        async with Bench() as bench:
            table = Table()
            await bench.start(table)
            hub = await bench.hub()
            got: list[int] = []
            with suppress(LinkLost, InstanceLost):
                async for n in hub.stream("table", "slow", timeout=3.0, returns=int):
                    got.append(n)
                    if n == 5:
                        bench.cut(hub.instance if victim == "reader" else table.hub.instance)
                    if n == 40:
                        break
            assert got == list(range(len(got)))
            assert len(got) >= 6


async def test_lost_room_is_told_again() -> None:
    """The word that there is room for more gets lost: it is said again, as a total, so the stream does not stand still."""
    async with Bench() as bench, Puppet(bench.network, "table", "table-0") as puppet:
        hub = await bench.hub()
        stream = hub.stream("table", "rows", window=2)
        reading: asyncio.Task[Any] = asyncio.create_task(anext(stream))
        request = await puppet.next()
        puppet.say(request, MessageType.STREAM_ITEM, "one")
        await reading
        assert (await puppet.next(MessageType.STREAM_CREDIT)).payload == 3
        again: asyncio.Task[Any] = asyncio.create_task(anext(stream))
        assert (await puppet.next(MessageType.STREAM_CREDIT)).payload == 3
        puppet.say(request._replace(attempt=2), MessageType.STREAM_END)
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        await stream.aclose()


async def test_opening_is_tried_again_like_a_call() -> None:
    """Before the first part a stream goes elsewhere as a call does: an instance that drains, or is gone, costs nobody one."""
    async with Bench() as bench, Puppet(bench.network, "table", "aaa") as drains:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        await hub.find("table")
        await turns()
        for _ in range(2):
            reading = asyncio.create_task(_collect(hub, 3))
            while not reading.done():
                await turns(1)
                if drains.has(MessageType.REQUEST):
                    drains.answer(await drains.next(), error=outcomes.draining("going"))
            assert await reading == [0, 1, 2]
        assert isinstance((await read(hub.stream("nobody", "rows")))[1], NoInstance)


async def _collect(hub: Any, count: int) -> list[int]:
    return [row["n"] async for row in hub.stream("table", "rows", {"count": count})]


async def test_calls_and_streams_are_not_mixed_up() -> None:
    """Calling a method that answers in parts, or the reverse, is refused with the way to do it."""
    async with Bench() as bench:
        await bench.start(Table())
        hub = await bench.hub()
        with pytest.raises(ValidationFailed, match=r"use hub\.stream"):
            await hub.call("table", "rows", {"count": 1})
        assert "use hub.call" in str((await read(hub.stream("table", "whole")))[1])
        with pytest.raises(ConfigurationError, match="window"):
            hub.stream("table", "rows", window=0)
        with pytest.raises(ConfigurationError):
            hub.stream("table@newest", "rows")


async def test_a_stream_is_for_one_reader() -> None:
    """Two tasks on one stream is a mistake that is named."""
    async with Bench() as bench:
        await bench.start(Table())
        stream = (await bench.hub()).stream("table", "slow")
        reading: asyncio.Task[Any] = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader"):
            await anext(stream)
        await reading
        await stream.aclose()


async def test_draining_ends_streams_typed() -> None:
    """M25 (faststream#1648): a stream that does not end within the grace is ended as lost when its instance stops."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        hub = await bench.hub()
        stream = hub.stream("table", "slow", timeout=30.0)
        await anext(stream)
        assert table.hub._served is not None
        draining = asyncio.create_task(table.hub._served.drain(0.1))
        assert "shut down" in str((await read(stream))[1])
        await draining
        assert table.closed == 1


async def test_a_closed_hub_ends_its_streams() -> None:
    """Closing the reader's hub ends the stream typed, the maker is stopped, and a later step says that it is over."""
    async with Bench() as bench:
        table = Table()
        await bench.start(table)
        async with Bench(network=bench.network) as other:
            hub = await other.hub()
            stream = hub.stream("table", "slow", timeout=30.0)
            await anext(stream)
        assert isinstance((await read(stream))[1], LinkLost)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(CallNotSent):
            await anext(hub.stream("table", "slow"))
        del stream
        gc.collect()
