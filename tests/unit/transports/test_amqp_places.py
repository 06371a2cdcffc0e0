"""A consumer's places count messages, whatever bodies they came in; what waits too long goes back; a body is settled once."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fabric.transports import amqp_places
from fabric.transports.amqp_delivery import AmqpDelivery
from fabric.transports.amqp_frames import Properties
from fabric.transports.amqp_parts import AmqpPart, Remembered, Single, Whole
from fabric.transports.amqp_places import Places
from fabric.wire import batch
from tests.puppet import eventually, turns

METHOD = b"\x00\x3c\x00\x3c\x00" + bytes(9) + b"\x06events\x03x.y"


def delivery(tag: int, body: bytes = b"", *, again: bool = False) -> AmqpDelivery:
    source = cast(Any, type("Nobody", (), {"ours": None})())
    return AmqpDelivery(source, tag, again, METHOD, Properties(), body)


def parts(tag: int, count: int) -> list[AmqpPart]:
    return Whole(delivery(tag), [b"%d" % number for number in range(count)], set()).parts


class Desk:
    def __init__(self, count: int) -> None:
        self.begun: list[Single] = []
        self.given_back: list[AmqpPart] = []
        self.places = Places(count, self.begun.append, self.given_back.extend)

    def take(self, *messages: Single) -> None:
        for message in messages:
            self.places.take(message)


async def test_each_part_takes_a_place() -> None:
    """Two places and three parts: the third begins when one of the others is settled, and before what came later."""
    desk, [one, two, three] = Desk(2), parts(1, 3)
    single = delivery(2)
    desk.take(one, two, three, single)
    assert desk.begun == [one, two]
    desk.places.leave()
    await turns(2)
    assert desk.begun == [one, two, three]
    desk.places.leave()
    await turns(2)
    assert desk.begun == [one, two, three, single]
    assert desk.given_back == []
    desk.places.drop()


async def test_what_is_not_begun_in_time_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts behind one that is slow are given back, a message that came alone stays: the broker would count it as tried."""
    monkeypatch.setattr(amqp_places, "PATIENCE", 0.001)
    desk, [slow, *rest] = Desk(1), parts(1, 3)
    single = delivery(2)
    desk.take(slow, *rest, single)
    await eventually(lambda: desk.given_back == rest)
    desk.places.leave()
    await turns(2)
    assert desk.begun == [slow, single]
    desk.places.drop()


async def test_who_gets_on_keeps_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is given its time anew when the one before it has been begun to its end."""
    monkeypatch.setattr(amqp_places, "PATIENCE", 1000.0)
    desk, first, second = Desk(1), parts(1, 2), parts(2, 2)
    desk.take(*first, *second)
    desk.places.leave()
    await turns(2)
    assert desk.begun == first
    desk.places._look(1)
    assert desk.given_back == [], "another body is the first that waits now"
    desk.places._look(2)
    assert desk.given_back == second
    desk.places.drop()


async def test_closing_lets_no_part_wait() -> None:
    """What waits is given back, and so is a part that comes later and would have to."""
    desk, [begun, waits], late = Desk(1), parts(1, 2), parts(2, 1)
    desk.take(begun, waits)
    assert desk.places.close() == [waits]
    desk.take(*late)
    assert desk.given_back == late
    desk.places.drop()


def test_a_body_ends_with_its_last_part() -> None:
    """It may be acknowledged when the last part is settled; if one could not be stored elsewhere it must be given back."""
    one, two = parts(1, 2)
    assert one.settle(stored=True) is None
    assert two.settle(stored=True) is True
    one, two, three = parts(1, 3)
    assert [part.settle(stored=stored) for part, stored in ((two, False), (three, True), (one, True))] == [None, None, False]


def test_what_was_done_is_remembered_for_so_many_bodies() -> None:
    """Of a body that comes again what was done is left out, once; the oldest body is forgotten when there are too many."""
    remembered = Remembered(2)
    bodies = [batch.join([b"%d-a" % number, b"%d-b" % number]) for number in range(3)]
    for number, body in enumerate(bodies):
        whole = remembered.split(delivery(number, body))
        assert whole is not None
        whole.parts[0].settle(stored=True)
        remembered.keep(whole)
    left = []
    for number, body in enumerate(bodies):
        again = remembered.split(delivery(number, body, again=True))
        assert again is not None
        left.append([part.body for part in again.parts])
    assert left == [[b"0-a", b"0-b"], [b"1-b"], [b"2-b"]]
    fresh = remembered.split(delivery(9, bodies[2], again=True))
    assert fresh is not None
    assert len(fresh.parts) == 2
    assert remembered.split(delivery(9, b"no batch")) is None
