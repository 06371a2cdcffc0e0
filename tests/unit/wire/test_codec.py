"""What is sent arrives as it was, in both codecs; what can't arrive is refused where it is sent."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError, InvalidMessage, PayloadTooLarge
from fabric.wire.codec import JSON, MSGPACK, Limits, decode, encode, encode_json
from fabric.wire.message import MessageType, Priority, ServiceMessage
from tests.unit.wire.messages import messages, request, unhurried

Encode = Callable[[ServiceMessage], bytes]
BOTH = pytest.mark.parametrize(("write", "content_type"), [(encode, MSGPACK), (encode_json, JSON)])


class Colour(enum.Enum):
    RED = "red"


def nested(depth: int) -> dict[str, Any]:
    """A map that many levels deep."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


@unhurried
@given(messages(binary=True))
def test_msgpack_keeps_everything(message: ServiceMessage) -> None:
    """Any message comes back from msgpack equal, with the enums as enums."""
    back = decode(encode(message))
    assert back == message
    assert type(back) is ServiceMessage
    assert type(back.type) is MessageType
    assert type(back.priority) is Priority


@unhurried
@given(messages(binary=False))
def test_json_keeps_everything(message: ServiceMessage) -> None:
    """Any message without bytes comes back from JSON equal."""
    assert decode(encode_json(message), JSON) == message


@unhurried
@given(messages(binary=True))
def test_the_types_of_fields_survive(message: ServiceMessage) -> None:
    """An equal value is also of the same type: no True that became 1, no 1 that became 1.0."""
    back = decode(encode(message))
    assert [type(value) for value in back] == [type(value) for value in message]
    assert repr(back.payload) == repr(message.payload)


def test_the_wire_format_is_fixed() -> None:
    """The order of the fields and the numbers of types and priorities are what processes of other versions read."""
    fields = msgpack.unpackb(encode(request({"a": 1}, priority=Priority.HIGH, correlation_id="c", headers={"h": 1})))
    assert fields == [
        "7-1", 1, "checkout", "reply.7", "email-service", "send_email", {"a": 1}, 2, "c", 1.7e9, 1, "reply.7", None, {"h": 1},
    ]  # fmt: skip
    assert {kind.name: int(kind) for kind in MessageType} == {
        "REQUEST": 1,
        "RESPONSE": 2,
        "EVENT": 3,
        "BROADCAST": 4,
        "CANCEL": 5,
        "STREAM_ITEM": 6,
        "STREAM_END": 7,
        "STREAM_CREDIT": 8,
        "PROBE": 9,
    }
    assert {item.name: int(item) for item in Priority} == {"LOW": 0, "NORMAL": 1, "HIGH": 2, "CRITICAL": 3}


def test_json_is_what_another_language_would_write() -> None:
    """A client needs six fields, may call the sender "from", and may name a charset."""
    body = json.dumps(
        {"id": "1", "type": 1, "from": "php", "instance": "php-1", "to": "email", "method": "send", "payload": {"to": "ü"}}
    ).encode()
    message = decode(body, "application/json; charset=utf-8")
    assert message == ServiceMessage("1", MessageType.REQUEST, "php", "php-1", "email", "send", {"to": "ü"})
    assert json.loads(encode_json(message)) == json.loads(body)


def test_an_older_and_a_newer_fabric_are_understood() -> None:
    """Fields that the sender does not know yet have their default, and those that we do not know yet are left aside."""
    whole = msgpack.unpackb(encode(request({"a": 1}, headers={"h": 1})))
    older, newer = decode(msgpack.packb(whole[:6])), decode(msgpack.packb([*whole, "new", {"newer": 1}]))
    assert older == ServiceMessage("7-1", MessageType.REQUEST, "checkout", "reply.7", "email-service", "send_email")
    assert newer == request({"a": 1}, headers={"h": 1})


@BOTH
@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (datetime.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=datetime.UTC), "2026-02-03T04:05:06.000007+00:00"),
        (datetime.date(2026, 2, 3), "2026-02-03"),
        (datetime.time(4, 5), "04:05:00"),
        (datetime.timedelta(days=1, microseconds=1), 86400.000001),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (Colour.RED, "red"),
        (pathlib.PurePosixPath("/a"), "/a"),
        ((1, (2,)), [1, [2]]),
        ({3}, [3]),
        (frozenset({4}), [4]),
    ],
)
def test_values_without_a_wire_type_have_a_form(write: Encode, content_type: str, value: object, wire: object) -> None:
    """Dates, UUIDs, decimals, enums, sets and tuples can be sent without a model."""
    assert decode(write(request({"value": value})), content_type).payload == {"value": wire}


def test_bytes_are_for_msgpack_only() -> None:
    """msgpack carries bytes; JSON says that it can't and what to do."""
    assert decode(encode(request([b"\x00\xff", bytearray(b"x"), memoryview(b"y")]))).payload == [b"\x00\xff", b"x", b"y"]
    with pytest.raises(InvalidMessage, match=r"bytes can't be sent in JSON; use msgpack, or text in base64"):
        encode_json(request([b"\x00"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1, {"b": float("-inf")}]}, (1.0, float("nan"))])
def test_json_does_not_turn_nan_into_null(value: object) -> None:
    """JSON has no NaN and no infinity; it is refused where it is sent instead of arriving as nothing."""
    with pytest.raises(InvalidMessage, match="NaN and infinity"):
        encode_json(request({"value": value, "nothing": None}))


@BOTH
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "a object can't be sent; use plain data"),
        (2**64, "64"),
        (-(2**63) - 1, "64"),
        ("\ud800", "surrogates"),
        ({"\udc80": 1}, "surrogates"),
        (1j, "a complex can't be sent"),
        (collections.deque([1]), "a deque can't be sent"),
        (nested(1).__class__, "a type can't be sent"),
    ],
)
def test_what_cannot_be_sent_is_refused(write: Encode, content_type: str, value: object, why: str) -> None:
    """A value without a wire form ends as InvalidMessage at the sender, with the reason."""
    with pytest.raises(InvalidMessage, match=why):
        write(request({"value": value}))


@BOTH
def test_a_value_that_holds_itself_is_refused(write: Encode, content_type: str) -> None:
    """A cycle is an error of the sender, not a crash of its process."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidMessage):
        write(request(circle))


@dataclasses.dataclass
class Point:
    x: int


def test_a_dataclass_needs_the_contract() -> None:
    """The codec alone knows no models; msgpack refuses them rather than guess."""
    with pytest.raises(InvalidMessage, match="a Point can't be sent"):
        encode(request(Point(1)))


@BOTH
@pytest.mark.parametrize("field", ["error", "headers"])
@pytest.mark.parametrize("value", [{1: "x"}, {"a": {2: "x"}}, {"a": nested(64)}])
def test_what_the_receiver_would_refuse_unread_is_refused_here(
    write: Encode, content_type: str, field: str, value: dict[Any, Any]
) -> None:
    """Keys and depth of headers and error details are checked on sending: the receiver could not say to whom it refuses."""
    with pytest.raises(InvalidMessage):
        write(request(**{field: value}))


@BOTH
def test_the_size_limit_holds_on_both_sides(write: Encode, content_type: str) -> None:
    """A message of exactly the limit passes; one byte more is PayloadTooLarge here and InvalidMessage there."""
    message = request("x" * 1000)
    size = len(write(message))
    exact, less = Limits(message_bytes=size), Limits(message_bytes=size - 1)
    writer: Any = write
    assert decode(writer(message, exact), content_type, exact) == message
    with pytest.raises(PayloadTooLarge) as refused:
        writer(message, less)
    assert (refused.value.size, refused.value.limit) == (size, size - 1)
    with pytest.raises(InvalidMessage, match=f"{size} bytes, over the limit of {size - 1}"):
        decode(write(message), content_type, less)


@BOTH
@pytest.mark.parametrize("depth", [1, 7, 64])
def test_the_depth_limit_is_exact(write: Encode, content_type: str, depth: int) -> None:
    """A payload nested as deep as the limit passes, one level more does not."""
    limits = Limits(depth=depth)
    assert decode(write(request(nested(depth))), content_type, limits).payload == nested(depth)
    with pytest.raises(InvalidMessage, match=f"nested deeper than {depth}"):
        decode(write(request(nested(depth + 1))), content_type, limits)


@BOTH
@pytest.mark.parametrize("big", [2000, 0])
def test_the_depth_limit_does_not_depend_on_size(write: Encode, content_type: str, big: int) -> None:
    """Small messages are checked by counting bytes, large ones by walking; both find the same."""
    limits = Limits(depth=5)
    deep = {"pad": "x" * big, "a": nested(5)}
    with pytest.raises(InvalidMessage, match="nested deeper than 5"):
        decode(write(request(deep)), content_type, limits)
    assert decode(write(request({"pad": "x" * big, "a": nested(4)})), content_type, limits).payload["a"] == nested(4)


@BOTH
def test_the_limit_of_entries_is_exact(write: Encode, content_type: str) -> None:
    """A list or map with as many entries as the limit passes, one more does not, in both codecs."""
    limits = Limits(items=20)
    for fits, too_many in [([0] * 20, [0] * 21), ({str(n): n for n in range(20)}, {str(n): n for n in range(21)})]:
        assert decode(write(request(fits)), content_type, limits).payload == fits
        with pytest.raises(InvalidMessage):
            decode(write(request(too_many)), content_type, limits)


@BOTH
def test_text_of_any_script_passes_the_depth_check(write: Encode, content_type: str) -> None:
    """Bytes of non-Latin text look like container headers; they must not count as depth."""
    text = "привет 你好 " * 60
    assert decode(write(request({"text": text, "list": [text]})), content_type, Limits(depth=2)).payload["list"] == [text]


@pytest.mark.parametrize("values", [{"depth": 0}, {"message_bytes": 0}, {"items": 13}, {"depth": -1}])
def test_limits_that_no_message_could_meet_are_refused(values: dict[str, int]) -> None:
    """A limit below what every message needs is a mistake of configuration."""
    with pytest.raises(ConfigurationError):
        Limits(**values)


@given(st.text(max_size=30))
def test_an_unknown_content_type_is_refused(content_type: str) -> None:
    """Only msgpack and JSON are read, whatever the body."""
    if content_type.partition(";")[0].strip().lower() not in (MSGPACK, JSON):
        with pytest.raises(InvalidMessage, match="unknown content type"):
            decode(encode(request()), content_type)


def test_the_codec_reads_what_orjson_and_msgpack_write() -> None:
    """Bodies of plain libraries, as an interop client has them, are whole messages."""
    fields = {"id": "1", "type": 3, "from": "a", "instance": "b", "to": "t", "method": "m", "priority": 3, "extra": [1]}
    assert decode(orjson.dumps(fields), JSON).priority is Priority.CRITICAL
    assert decode(msgpack.packb(("1", 3, "a", "b", "t", "m", None, 3))).priority is Priority.CRITICAL
