"""Requests and answers that travel together below one head."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import InvalidMessage, PayloadTooLarge
from fabric.wire import batch, rows
from fabric.wire.codec import MSGPACK, Limits, decode, encode, encode_row
from fabric.wire.message import MessageType, Priority, ServiceMessage
from tests.unit.wire.messages import TEXT, messages, plain, request, unhurried

HEADS = st.tuples(TEXT, TEXT, TEXT, st.sampled_from(Priority), st.none() | TEXT)
ANSWERS = (MessageType.RESPONSE, MessageType.STREAM_ITEM, MessageType.STREAM_END, MessageType.PROBE)
ASKS = rows.head(MessageType.REQUEST, "checkout", "reply.7", "email-service", Priority.NORMAL, "reply.7")
TELLS = rows.head(MessageType.RESPONSE, "email-service", "email-0", "checkout", Priority.NORMAL)
Head = tuple[str, str, str, Priority, str | None]


def below(head: Head, kind: MessageType, message: ServiceMessage) -> ServiceMessage:
    """What of any message can be said by a row below a head of that kind."""
    source, instance, to, priority, reply_to = head
    same = message._replace(source=source, instance=instance, to=to, priority=priority, reply_to=reply_to)
    if kind is MessageType.REQUEST:
        return same._replace(type=kind, correlation_id=None, error=None)
    return same._replace(type=kind, correlation_id=same.id, method="", deadline=None)


def row(message: ServiceMessage) -> bytes:
    """Its row, as short as it can be."""
    id, kind, _, _, _, method, payload, _, _, deadline, attempt, _, error, headers = message
    fields: tuple[Any, ...]
    if kind is MessageType.REQUEST:
        fields = (id, method, payload, deadline) + ((attempt, headers) if (attempt, headers) != (1, None) else ())
    else:
        more = (kind, attempt, error, headers)
        fields = (id, payload) + (more if more != (MessageType.RESPONSE, 1, None, None) else ())
    return encode_row(fields, 0)


def asks(*payloads: Any) -> list[bytes]:
    return [row(request(payload)) for payload in payloads]


def refused(body: bytes, limits: Limits | None = None) -> str:
    """Why the whole body is refused, once."""
    (found,) = rows.read(body, limits or Limits())
    assert isinstance(found, InvalidMessage)
    plainly, (same,), load = rows.answers(body, limits or Limits())
    assert (plainly, str(same), load) == ([], str(found), None)
    assert len(str(found)) < 400, "the text must not repeat the hostile input"
    return found.reason


def by_one(body: bytes) -> Limits:
    """Limits of one message by which the body has to be read row by row."""
    return Limits(message_bytes=len(body) - 1)


def hold(body: bytes, limits: Limits | None = None) -> list[ServiceMessage | InvalidMessage]:
    """Each is a message that could have come whole as well, or InvalidMessage; and who wants only answers gets the same."""
    found = rows.read(body, limits or Limits())
    for item in found:
        assert type(item) in (ServiceMessage, InvalidMessage)
        if isinstance(item, ServiceMessage):
            assert encode(decode(encode(item))) == encode(item), "a row gets nothing in that is refused as a whole message"
    plainly, others, _ = rows.answers(body, limits or Limits())
    assert all(type(id) is str for id, _ in plainly)
    assert Counter(map(said, found)) == Counter(map(said, others)) + Counter(said(answer(*each)) for each in plainly)
    return found


def said(item: ServiceMessage | InvalidMessage) -> object:
    """What it says of what differs, to compare also what is not a number."""
    if isinstance(item, InvalidMessage):
        return item.reason
    id, kind, _, _, _, method, payload, _, correlation, deadline, attempt, _, error, headers = item
    return msgpack.packb((id, kind, method, payload, correlation, deadline, attempt, error, headers))


def answer(id: str, payload: Any) -> ServiceMessage:
    return ServiceMessage(id, MessageType.RESPONSE, "", "", "", "", payload, correlation_id=id)


# ---------------------------------------------------------------- what goes in comes out


@unhurried
@given(HEADS, st.lists(messages(binary=True), max_size=4))
def test_requests_come_out_as_they_went_in(head: Head, many: list[ServiceMessage]) -> None:
    """Any requests below one head, with any payloads, deadlines, attempts and headers, in order."""
    asked = [below(head, MessageType.REQUEST, message) for message in many]
    body = rows.join(rows.head(MessageType.REQUEST, *head), [row(message) for message in asked])
    assert batch.messages(body, rows.ROWS) == asked


@unhurried
@given(HEADS, st.lists(st.tuples(messages(binary=True), st.sampled_from(ANSWERS)), max_size=4))
def test_answers_come_out_as_they_went_in(head: Head, many: list[tuple[ServiceMessage, MessageType]]) -> None:
    """Any answers below one head, parts and ends of streams among them; their method is empty and their id the request's."""
    told = [below(head, kind, message) for message, kind in many]
    body = rows.join(rows.head(MessageType.RESPONSE, *head), [row(message) for message in told])
    assert batch.messages(body, rows.ROWS) == told
    hold(body)


@unhurried
@given(HEADS, st.sampled_from([MessageType.REQUEST, *ANSWERS]), st.lists(messages(binary=True), min_size=1, max_size=3))
def test_both_ways_of_reading_say_the_same(head: Head, kind: MessageType, many: list[ServiceMessage]) -> None:
    """Whether a body is read in one step, or row by row for its size or for what is damaged in it, its messages are the same."""
    sent = [below(head, kind, message) for message in many]
    top = rows.head(kind if kind is MessageType.REQUEST else MessageType.RESPONSE, *head)
    found = rows.read(rows.join(top, [*(row(message) for message in sent), msgpack.packb(msgpack.ExtType(5, b"x"))]))
    assert found[:-1] == sent
    assert type(found[-1]) is InvalidMessage
    body = rows.join(top, [row(message) for message in sent])
    assert rows.read(body, by_one(body)) == sent


def test_short_rows_are_told_from_long_ones() -> None:
    """What is usual has four and two fields, what is not six of each; both are read below the same head."""
    ordinary, again = request({"a": 1}), request([1], attempt=2, headers={"trace": "t"}, id="7-2")
    assert [len(msgpack.unpackb(row(message))) for message in (ordinary, again)] == [4, 6]
    assert rows.read(rows.join(ASKS, [row(ordinary), row(again)])) == [ordinary, again]
    long = msgpack.packb(["7-1", "send_email", {"a": 1}, 1.7e9, 1, None])
    assert rows.read(rows.join(ASKS, [long])) == [ordinary], "a long row may say what is usual"


def test_answers_are_sorted() -> None:
    """A caller gets what says only a value as it is, and all else as messages: what is nested, parts, errors, and what is
    damaged."""
    values: list[Any] = [None, True, 7, 1.5, "text", b"bytes", {"a": 1}]
    others = [answer("8-0", [1]), answer("8-1", None)._replace(error={"kind": "late"})]
    others += [answer("8-2", 1)._replace(type=MessageType.STREAM_ITEM, attempt=2), answer("8-3", {"a": {}})]
    lines = [row(answer(f"7-{n}", value)) for n, value in enumerate(values)]
    lines += [*map(row, others), b"\xc0"]
    top = rows.head(MessageType.RESPONSE, "", "", "", Priority.NORMAL, load=12)
    for body in (rows.join(top, lines), rows.join(top, [*lines, VALUES["ext type"]])):
        found = rows.answers(body)
        assert found.plain == [[f"7-{n}", value] for n, value in enumerate(values)]
        assert found.others[:4] == others
        assert {type(item) for item in found.others[4:]} == {InvalidMessage}
        assert len(found.others) == len(lines) - len(values) + (body != rows.join(top, lines))
        assert found.load == 12


@pytest.mark.parametrize("load", [None, 0, 2**40])
def test_the_load_is_in_the_head_of_answers(load: int | None) -> None:
    """Whoever answers may say how busy it is; that changes nothing for who does not ask."""
    top = rows.head(MessageType.RESPONSE, "email-service", "email-0", "checkout", Priority.NORMAL, load=load)
    body = rows.join(top, [row(answer("7-1", 1))])
    assert rows.answers(body) == ([["7-1", 1]], [], load)
    assert rows.read(body) == rows.read(rows.join(TELLS, [row(answer("7-1", 1))]))


@pytest.mark.parametrize("load", ["12", 1.5, True, None, [], {}, b"1", [[]]])
def test_a_load_that_is_none(load: object) -> None:
    """What can't be a load is passed over: it concerns none of the answers."""
    top = msgpack.packb([2, "email-service", "email-0", "checkout", 1, None, load])
    assert rows.answers(rows.join(top, [row(answer("7-1", 1))])) == ([["7-1", 1]], [], None)


def test_who_wants_answers_is_given_requests_as_such() -> None:
    """A body of requests that comes to a caller's address is no answers."""
    assert rows.answers(rows.join(ASKS, asks(1, [2]))) == ([], [request(1), request([2])], None)


def test_no_rows_are_no_messages() -> None:
    """A head with nothing below it says nothing."""
    assert rows.read(rows.join(ASKS, [])) == []


# ---------------------------------------------------------------- sizes


@unhurried
@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=40))
def test_the_overhead_is_what_the_sender_counts_with(head: bytes, parts: list[bytes]) -> None:
    """A body is never longer than its head, its rows and OVERHEAD, so that it never exceeds the limit it was filled to."""
    assert len(rows.join(head, parts)) <= len(head) + sum(map(len, parts)) + rows.OVERHEAD


def test_the_most_rows() -> None:
    """A body with MOST_ROWS is read, and one with a single row more is refused as a whole; in both ways of reading."""
    most = asks(*[None] * rows.MOST_ROWS)
    for count, read in ((rows.MOST_ROWS, rows.MOST_ROWS), (rows.MOST_ROWS + 1, 1)):
        body = rows.join(ASKS, [*most, most[0]][:count])
        for limits in (Limits(), by_one(body)):
            found = rows.read(body, limits)
            assert len(found) == read
            assert {type(item) for item in found} == {ServiceMessage if read > 1 else InvalidMessage}


def test_a_row_is_refused_when_its_message_could_not_travel_alone() -> None:
    """A sender counts what a message has besides its row, so that it stays within the limit when it comes to travel whole."""
    fields = ("7-1", "send_email", "x" * 100, 1.7e9)
    size = len(encode_row(fields, 0))
    assert len(encode_row(fields, 50, Limits(message_bytes=size + 50))) == size
    with pytest.raises(PayloadTooLarge) as error:
        encode_row(fields, 50, Limits(message_bytes=size + 49))
    assert str(size + 50) in str(error.value)
    with pytest.raises(InvalidMessage):
        encode_row(("7-1", "send_email", object(), 1.7e9), 50)


def test_limits_hold_for_each_row() -> None:
    """A row over the limit of a message, or with a map or list over that of entries, is refused, and its neighbours arrive."""
    wide = {str(n): n for n in range(15)}
    for payload, limits in (
        ("x" * 1000, Limits(message_bytes=500)),
        ([0] * 15, Limits(items=14)),
        ({"a": [[0] * 15]}, Limits(items=14)),
        (wide, Limits(items=14)),
        ({"a": wide}, Limits(items=14)),
        ([[[]]], Limits(depth=2)),
        ({"a": {"b": {}}}, Limits(depth=2)),
    ):
        first, second, third = rows.read(rows.join(ASKS, asks("a", payload, "b")), limits)
        assert [first, third] == [request("a"), request("b")]
        assert type(second) is InvalidMessage, payload
        assert rows.read(rows.join(ASKS, asks(payload))) == [request(payload)], "without that limit it passes"


def test_limits_hold_for_the_head() -> None:
    """A head over the limit of a message is refused with all that is below it."""
    long = rows.head(MessageType.REQUEST, "x" * 1000, "", "", Priority.NORMAL)
    refused(rows.join(long, asks(None)), Limits(message_bytes=500))


# ---------------------------------------------------------------- what is damaged


def nested(levels: int, step: bytes = b"\x91") -> bytes:
    return step * levels + b"\xc0"


VALUES = {
    "ext type": msgpack.packb(msgpack.ExtType(5, b"x")),
    "ext type without bytes": b"\xc7\x00\x05",
    "timestamp": msgpack.packb(msgpack.Timestamp(1, 1)),
    "timestamp in 4 bytes": b"\xd6\xff\x00\x00\x00\x00",
    "key that is a number": b"\x81\x01\x01",
    "key that is bytes": b"\x81\xc4\x01k\x01",
    "key that is nothing": b"\x81\xc0\x01",
    "key that is a list": b"\x81\x90\x01",
    "key that is an ext type": b"\x81\xc7\x00\x05\x01",
    "broken UTF-8": b"\xa1\xff",
    "overlong UTF-8": b"\xa2\xc0\x80",
    "surrogate": b"\xa3\xed\xa0\x80",
    "surrogate as a key": b"\x81\xa3\xed\xa0\x80\x01",
    "65 deep": nested(65),
    "65 maps deep": nested(65, b"\x81\xa1k"),
    "500 deep": nested(500),
}
"""What can't be in a message."""

SHELLS = (b"?", b"\x91?", b"\x81\xa1a?", b"\x91\x81\xa1a\x91?", b"\x82\xa3pad\xda\x08\x00" + b"x" * 2048 + b"\xa1a?")

DAMAGED_ASKS = {
    "nothing": b"\xc0",
    "number": b"\x07",
    "text": b"\xa3row",
    "bytes": b"\xc4\x04rows",
    "map": b"\x84\xa1a\x01\xa1b\x02\xa1c\x03\xa1d\x04",
    "empty": b"\x90",
    **{f"{n} fields": msgpack.packb(["7-1", "m", None, 1.0, 1, None, None, None][:n]) for n in (1, 2, 3, 5, 7, 8)},
    "id": msgpack.packb([b"7-1", "m", None, 1.0]),
    "no id": msgpack.packb([None, "m", None, 1.0]),
    "method": msgpack.packb(["7-1", ["m"], None, 1.0]),
    "deadline": msgpack.packb(["7-1", "m", None, "soon"]),
    "deadline that is no number": msgpack.packb(["7-1", "m", None, float("nan")]),
    "deadline without end": msgpack.packb(["7-1", "m", None, float("inf")]),
    "deadline that is true": msgpack.packb(["7-1", "m", None, True]),
    "attempt 0": msgpack.packb(["7-1", "m", None, 1.0, 0, None]),
    "attempt": msgpack.packb(["7-1", "m", None, 1.0, "1", None]),
    "attempt beyond": msgpack.packb(["7-1", "m", None, 1.0, 2**31, None]),
    "headers": msgpack.packb(["7-1", "m", None, 1.0, 1, [1]]),
    "whole message": encode(request()),
    "rows": rows.join(ASKS, asks(1)),
}
DAMAGED_TELLS = {
    "nothing": b"\xc0",
    **{f"{n} fields": msgpack.packb(["7-1", None, 2, 1, None, None, None, None][:n]) for n in (0, 1, 3, 4, 5, 7, 8)},
    "id": msgpack.packb([7, None]),
    "no id": msgpack.packb([None, None]),
    "type": msgpack.packb(["7-1", None, 99, 1, None, None]),
    "type that is a list": msgpack.packb(["7-1", None, [2], 1, None, None]),
    "attempt": msgpack.packb(["7-1", None, 2, 0, None, None]),
    "error": msgpack.packb(["7-1", None, 2, 1, "failed", None]),
    "headers": msgpack.packb(["7-1", None, 2, 1, None, 1]),
    "request": row(request()),
}
WAYS = ["in one step", "row by row", "beside another"]


def spoil(head: bytes, good: bytes, damaged: bytes, way: str) -> None:
    """Read the damaged row between two good ones."""
    last = VALUES["ext type"] if way == "beside another" else good
    body = rows.join(head, [good, damaged, last])
    found = rows.read(body, by_one(body) if way == "row by row" else Limits())
    assert [type(item) for item in found[:2]] == [ServiceMessage, InvalidMessage]
    assert found[2:] == [found[0]] or (way == "beside another" and type(found[2]) is InvalidMessage)
    assert len(found) == 3
    assert len(str(found[1])) < 400


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_can_not_be_spoils_only_its_row(name: str, way: str) -> None:
    """M31 (dramatiq#848): ext types, keys that are not text, broken text and deep nesting, at any depth of a payload, in an
    error, in headers or in place of a row: the rows beside it arrive."""
    value = VALUES[name]
    (ask,), tell = asks(1), encode_row(("7-1", 1), 0)
    spoil(ASKS, ask, value, way)
    spoil(TELLS, tell, value, way)
    for shell in SHELLS:
        payload = shell.replace(b"?", value)
        spoil(ASKS, ask, b"\x94\xa37-1\xa1m" + payload + b"\xcb" + b"\x00" * 8, way)
        spoil(ASKS, ask, b"\x96\xa37-1\xa1m" + payload + b"\xc0\x01\xc0", way)
        spoil(TELLS, tell, b"\x92\xa37-1" + payload, way)
        spoil(ASKS, ask, b"\x96\xa37-1\xa1m\xc0\xc0\x01" + b"\x81\xa1h" + payload, way)
        spoil(TELLS, tell, b"\x96\xa37-1\xc0\x02\x01\x81\xa1e" + payload + b"\xc0", way)
        spoil(TELLS, tell, b"\x96\xa37-1" + payload + b"\x02\x01\xc0\xc0", way)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_is_none_spoils_only_itself(way: str) -> None:
    """M31 (dramatiq#848): a row of another kind, of the wrong length or with a field that it can't have."""
    for damaged in DAMAGED_ASKS.values():
        spoil(ASKS, asks(1)[0], damaged, way)
    for damaged in DAMAGED_TELLS.values():
        spoil(TELLS, encode_row(("7-1", 1), 0), damaged, way)


@unhurried
@given(st.sampled_from([ASKS, TELLS]), st.lists(plain(binary=True), max_size=6), st.booleans())
def test_rows_that_are_anything(head: bytes, values: list[object], listed: bool) -> None:
    """M31 (dramatiq#848): each value below a head is a message or InvalidMessage in its place, in both ways of reading."""
    parts = [msgpack.packb(values)] if listed else [msgpack.packb(value) for value in values]
    body = rows.join(head, parts)
    found = hold(body)
    assert len(found) == len(parts)
    assert [type(item) for item in hold(body, by_one(body))] == [type(item) for item in found]


@unhurried
@given(HEADS, st.booleans(), st.lists(messages(binary=True), min_size=1, max_size=3), st.data())
def test_damaged_bodies(head: Head, asking: bool, many: list[ServiceMessage], data: st.DataObject) -> None:
    """M31 (dramatiq#848): a real body with a flipped byte is messages or InvalidMessage; cut off, or with more behind it, it is
    one InvalidMessage."""
    kind = MessageType.REQUEST if asking else MessageType.RESPONSE
    body = bytearray(rows.join(rows.head(kind, *head), [row(below(head, kind, message)) for message in many]))
    where = data.draw(st.integers(0, len(body) - 1))
    refused(bytes(body[:where]))
    refused(bytes(body) + data.draw(st.binary(min_size=1, max_size=20)))
    refused(bytes(body) * 2)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    hold(bytes(body))
    hold(bytes(body), by_one(bytes(body)))


@unhurried
@given(st.sampled_from([b"", b"\x92", b"\xdd\x00\x00\x00\x02", b"\x92" + ASKS, b"\x93" + TELLS]), st.binary(max_size=80))
def test_bytes_that_begin_like_rows(begin: bytes, rest: bytes) -> None:
    """M31 (dramatiq#848): whatever comes behind the beginning of a body is messages or InvalidMessage."""
    hold(begin + rest)


TOP: list[Any] = [1, "checkout", "reply.7", "email-service", 1, "reply.7"]
WRONG: dict[int, list[Any]] = {
    0: [0, 10, None, "1", [1], {}, 2**63, *(int(kind) for kind in MessageType if kind > MessageType.RESPONSE)],
    **{at: [None, 1, b"x", ["x"], {}] for at in (1, 2, 3)},
    4: [4, -1, None, "high", [1], {}, 2**63],
    5: [1, b"x", [], {}, False, {1: 1}, msgpack.ExtType(5, b"x"), [[[[[]]]]]],
}
NO_HEADS = [
    *(None, 1, "headed", b"headed", {}, {str(n): n for n in range(6)}, [], TOP[:5], [*TOP, None, None], TOP[:1] * 6),
    *([*TOP[:at], value, *TOP[at + 1 :]] for at, values in WRONG.items() for value in values),
]


@pytest.mark.parametrize("top", NO_HEADS)
def test_heads_that_are_none(top: object) -> None:
    """M31 (dramatiq#848): a head of the wrong width or kind, with a field that it can't have, or of messages that do not travel
    in rows, is one InvalidMessage, however many rows are below it, in both ways of reading."""
    for below_it in ([], asks(1, 2), [encode_row(("7-1", 1), 0)], [VALUES["ext type"]]):
        body = rows.join(msgpack.packb(top), below_it)
        refused(body)
        refused(body, by_one(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90",
        b"\xdd\x00\x00\x00\x00",
        b"\xc0",
        b"\xc1",
        b"\xa6headed",
        b"\xc4\x06headed",
        ASKS,
        encode(request()),
        b"\x81" + ASKS + b"\x01",
        batch.join([encode(request()), encode(request())]),
        rows.join(rows.join(ASKS, asks(1)), asks(1)),
        b"\xdd\x7f\xff\xff\xff" + ASKS + asks(1)[0] * 5,
        b"\xdc\x04\x02" + ASKS + asks(1)[0] * 5,
        b"\x91" + b"\x91" * 5000,
        rows.join(ASKS, [*asks(1), b"\xc1", *asks(1)]),
        rows.join(ASKS, [*asks(1), nested(5000), *asks(1)]),
        rows.join(ASKS, [*asks(1), b"\xc6\xff\xff\xff\xff", *asks(1)]),
    ],
)
def test_what_only_claims_to_be_rows(body: bytes) -> None:
    """M31 (dramatiq#848): a body of something else, or one in which it can't be told where a row ends, is one InvalidMessage."""
    refused(body)
    refused(body, Limits(message_bytes=max(1, len(body) - 1)))
    assert len(batch.messages(body, rows.ROWS)) == 1


def test_rows_are_no_message_of_their_own() -> None:
    """Read as one message, as events are, a body of rows is refused for its content type, or for its shape."""
    body = rows.join(ASKS, asks(*range(6)))
    for content_type in (rows.ROWS, MSGPACK):
        with pytest.raises(InvalidMessage):
            decode(body, content_type)


@pytest.mark.parametrize("filler", [b"\xc0", b"\x90", b"\x80", b"\xa0", b"\x94\xa0\xa0\xc0\xc0", b"\x92\xa0\xc0"])
@pytest.mark.parametrize("count", [200_000, 3_000_000])
def test_megabytes_of_next_to_nothing_are_refused_as_one(filler: bytes, count: int) -> None:
    """M31 (dramatiq#848): a body of nothing but tiny rows is refused once, not a million times."""
    for head in (ASKS, TELLS, b"\xc0"):
        refused(rows.join(head, [filler * count]))
        refused(rows.join(head, []).replace(b"\xdd\x00\x00\x00\x01", b"\xdd" + (count + 1).to_bytes(4, "big")) + filler * count)
