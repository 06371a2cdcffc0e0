"""Bodies that are handed over without a task to wait in: how each ended is told once, on every kind of broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fabric.errors import ConnectionLost, FabricError, NoRoute, PayloadTooLarge, TransportClosed
from fabric.transports.base import Transport
from fabric.wire.message import Priority
from tests.contract.backends import Ability, Backend
from tests.contract.observed import LIMIT, Inbox
from tests.puppet import eventually

TIMEOUT = 10.0

pytestmark = pytest.mark.parametrize("answered", [False, True], ids=["confirmed", "answered"])


class Book:
    """What was told of each body."""

    def __init__(self, transport: Transport, exchange: str, *, answered: bool) -> None:
        self._transport, self._exchange, self._answered = transport, exchange, answered
        self.told: dict[bytes, list[FabricError | None]] = {}

    def submit(self, key: str, body: bytes, timeout: float = TIMEOUT, **options: Any) -> bool:
        told = self.told.setdefault(body, [])
        taken = self._transport.submit(
            self._exchange, key, body, told.append, timeout=timeout, answered=self._answered, **options
        )
        assert told == [], "it returns first"
        return taken

    async def of(self, body: bytes) -> FabricError | None:
        await eventually(lambda: bool(self.told[body]))
        (error,) = self.told[body]
        return error


async def test_what_arrived_and_what_did_not(backend: Backend, answered: bool) -> None:
    """What is taken arrives, in order, and is told without an error; what nobody is bound for is told as NoRoute."""
    topology, link = backend.topology, await backend.transport()
    inbox, book = Inbox(), Book(link, topology.rpc, answered=answered)
    await link.consume(topology.requests("callee"), inbox, timeout=TIMEOUT)
    bodies = [b"%d" % number for number in range(20)]
    assert all(book.submit("callee", body, priority=Priority.HIGH, content_type="a/b") for body in bodies)
    assert book.submit("nobody", b"gone")
    error = await book.of(b"gone")
    assert isinstance(error, NoRoute)
    assert (error.exchange, error.key) == (topology.rpc, "nobody")
    deliveries = [await inbox.next() for _ in bodies]
    assert [delivery.body for delivery in deliveries] == bodies
    assert {(delivery.priority, delivery.content_type) for delivery in deliveries} == {(Priority.HIGH, "a/b")}
    assert [await book.of(body) for body in bodies] == [None] * 20


async def test_what_can_not_be_handed_over(backend: Backend, answered: bool) -> None:
    """A body that is too large, a key that can't be one and a closed transport are said at once, and nothing is told later."""
    link = await backend.transport(max_body=1000)
    book = Book(link, backend.topology.rpc, answered=answered)
    with pytest.raises(PayloadTooLarge):
        book.submit("callee", b"x" * 1001)
    with pytest.raises(ValueError, match="255"):
        book.submit("k" * 256, b"key")
    await link.aclose()
    with pytest.raises(TransportClosed):
        book.submit("callee", b"closed")
    assert not any(book.told.values())


@pytest.mark.needs(Ability.PAUSE, Ability.CUT)
async def test_a_link_that_is_lost(backend: Backend, answered: bool) -> None:
    """M8: what was not confirmed when the link is lost is told as unknown, once; without a link nothing is taken, and the next
    link takes again."""
    topology, link, other = backend.topology, await backend.transport(), await backend.transport()
    inbox, book = Inbox(), Book(link, topology.rpc, answered=answered)
    await other.consume(topology.requests("callee"), inbox, timeout=TIMEOUT)
    await backend.pause(link)
    bodies = [b"%d" % number for number in range(5)]
    for body in bodies:
        assert book.submit("callee", body)
    await backend.cut(link)
    assert [type(await book.of(body)) for body in bodies] == [ConnectionLost] * 5
    async with asyncio.timeout(LIMIT):
        while not book.submit("callee", b"again"):
            await asyncio.sleep(0.01)
    assert await book.of(b"again") is None
    assert all(len(told) == 1 for told in book.told.values())


@pytest.mark.needs(Ability.PAUSE)
async def test_no_word_in_time(backend: Backend, answered: bool) -> None:
    """What is not confirmed in its time is told as unknown, within that time and a little."""
    topology, link = backend.topology, await backend.transport()
    book = Book(link, topology.rpc, answered=answered)
    await backend.pause(link)
    assert book.submit("callee", b"late", timeout=0.1)
    assert isinstance(await book.of(b"late"), ConnectionLost)
    await backend.resume(link)
    await link.ping(timeout=TIMEOUT)
    assert len(book.told[b"late"]) == 1
