"""Events that are ready together are stored together, each of them is told how that ended, and a lone one is not delayed."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import ConnectionLost, NotSent, PayloadTooLarge, TransportClosed
from fabric.transports import event_outbox
from fabric.transports.base import LinkState
from fabric.transports.event_outbox import EventOutbox
from fabric.wire.batch import BATCH
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority
from tests.puppet import turns
from tests.unit.test_outbox import HandTransport


class Desk:
    """An outbox on a transport that the test drives, and who waits for it."""

    def __init__(self, *, max_batch_bytes: int = 1000) -> None:
        self.transport = HandTransport()
        self.outbox = EventOutbox(self.transport, "events", max_batch_bytes=max_batch_bytes)

    def send(
        self, data: bytes, *, key: str = "x.y", priority: Priority = Priority.NORMAL, timeout: float = 1000.0
    ) -> asyncio.Task[None]:
        return asyncio.create_task(self.outbox.send(key, data, id=data.decode(), priority=priority, timeout=timeout))

    @property
    def bodies(self) -> list[list[bytes]]:
        return [sending.parts for sending in self.transport.sendings]

    def confirm(self, number: int) -> None:
        self.transport.sendings[number].end.set_result(None)


async def test_a_lone_event_leaves_at_once_and_alone() -> None:
    """One event is no batch, is sent within a few turns of the loop, and its sender goes on with the confirm."""
    desk = Desk()
    sent = desk.send(b"one")
    await turns(4)
    [sending] = desk.transport.sendings
    assert (sending.exchange, sending.key, sending.body, sending.content_type) == ("events", "x.y", b"one", MSGPACK)
    assert not sending.mandatory
    assert sending.expires is None
    await turns(4)
    assert not sent.done()
    desk.confirm(0)
    await sent


async def test_what_is_ready_together_is_one_body() -> None:
    """Events of one topic in one turn travel together and in order, and one confirm is for all."""
    desk = Desk()
    all_sent = [desk.send(b"%d" % number) for number in range(5)]
    await turns(4)
    assert desk.bodies == [[b"0", b"1", b"2", b"3", b"4"]]
    assert desk.transport.sendings[0].content_type == BATCH
    desk.confirm(0)
    await asyncio.gather(*all_sent)


async def test_topics_and_priorities_do_not_mix() -> None:
    """A body must be routable and have one place in the queue: another topic or priority is another body."""
    desk = Desk()
    tasks = [desk.send(b"a"), desk.send(b"b", key="other"), desk.send(b"c", priority=Priority.HIGH), desk.send(b"d")]
    await turns(4)
    assert sorted(desk.bodies) == [[b"a", b"d"], [b"b"], [b"c"]]
    for number in range(3):
        desk.confirm(number)
    await asyncio.gather(*tasks)


async def test_bodies_are_bounded_in_bytes_and_number() -> None:
    """A body is as large as it may be, in bytes or in events; what is too large to share one travels alone, in its place."""
    desk = Desk(max_batch_bytes=100)
    tasks = [desk.send(data) for data in (b"a" * 40, b"b" * 40, b"c" * 300, b"d")]
    await turns(4)
    assert desk.bodies == [[b"a" * 40, b"b" * 40], [b"c" * 300], [b"d"]]
    many = Desk(max_batch_bytes=1_000_000)
    tasks += [many.send(b"x") for _ in range(event_outbox.MOST_PARTS + 1)]
    await turns(4)
    assert list(map(len, many.bodies)) == [event_outbox.MOST_PARTS, 1]
    for each in (desk, many):
        for number in range(len(each.bodies)):
            each.confirm(number)
    await asyncio.gather(*tasks)


async def test_what_comes_while_enough_is_under_way_fills_the_next_body() -> None:
    """A few bodies wait for confirms at once; what comes then leaves together when one of these is confirmed."""
    desk = Desk()
    tasks = []
    for number in range(event_outbox.MOST_UNDER_WAY + 3):
        tasks.append(desk.send(b"%d" % number))
        await turns(4)
    assert desk.bodies == [[b"%d" % number] for number in range(event_outbox.MOST_UNDER_WAY)]
    desk.confirm(1)
    await turns(4)
    assert desk.bodies[-1] == [b"4", b"5", b"6"]
    for number in (0, 2, 3, 4):
        desk.confirm(number)
    await asyncio.gather(*tasks)


async def test_each_of_a_failed_body_is_told() -> None:
    """When a body is refused, each sender gets the error, of its own, with what caused it."""
    desk = Desk()
    tasks = [desk.send(b"a"), desk.send(b"b")]
    await turns(4)
    desk.transport.sendings[0].end.set_exception(NotSent("the queue is full"))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(type(error), str(error)) for error in errors] == [(NotSent, str(errors[0]))] * 2
    assert "the queue is full" in str(errors[0])
    assert errors[0] is not errors[1]


async def test_nothing_leaves_while_the_link_is_down() -> None:
    """What waits for the link leaves when it is back, but for what was cancelled or was out of time by then: never."""
    desk = Desk()
    desk.transport.turn(LinkState.RECONNECTING)
    kept, dropped, late = desk.send(b"kept"), desk.send(b"dropped"), desk.send(b"late", timeout=0.001)
    await turns(4)
    assert desk.bodies == []
    dropped.cancel()
    with pytest.raises(NotSent, match="reconnecting"):
        await late
    desk.transport.turn(LinkState.READY)
    await turns(4)
    assert desk.bodies == [[b"kept"]]
    desk.confirm(0)
    await kept


async def test_an_unconfirmed_event_is_unknown_after_its_time() -> None:
    """Handed over and not confirmed in time: nobody knows, and the confirm that comes late disturbs nobody."""
    desk = Desk()
    hasty, patient = desk.send(b"a", timeout=0.001), desk.send(b"b")
    await turns(4)
    assert desk.bodies == [[b"a", b"b"]]
    with pytest.raises(ConnectionLost, match="not confirmed"):
        await hasty
    desk.confirm(0)
    await patient


async def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event over the limit is refused at once, and so is what would wait beyond the bounds while the link is down."""
    desk = Desk()
    with pytest.raises(PayloadTooLarge):
        await desk.send(b"x" * (desk.transport.max_body + 1))
    with pytest.raises(ValueError, match="255"):
        await desk.send(b"x", key="k" * 300)
    monkeypatch.setattr(event_outbox, "MOST_WAITING", 1)
    desk.transport.turn(LinkState.RECONNECTING)
    waits = desk.send(b"first")
    await turns(4)
    with pytest.raises(NotSent, match="wait for it already"):
        await desk.send(b"second")
    desk.transport.turn(LinkState.READY)
    await turns(4)
    desk.confirm(0)
    await waits


async def test_closing_refuses_what_waits() -> None:
    """When the transport is closed, who waits for the link is told so, and whoever comes later too."""
    desk = Desk()
    desk.transport.turn(LinkState.RECONNECTING)
    waits = desk.send(b"first")
    await turns(4)
    await desk.transport.aclose()
    with pytest.raises(TransportClosed):
        await waits
    with pytest.raises(TransportClosed):
        await desk.send(b"second")
