"""M31 (dramatiq#848): whatever bytes come, nothing but InvalidMessage comes of them, and refusing is cheap."""

from __future__ import annotations

import copy
import json
import pickle
import struct
import tracemalloc
import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabric.errors import InvalidMessage
from fabric.wire import batch
from fabric.wire.codec import JSON, MSGPACK, Limits, decode, encode, encode_json
from fabric.wire.message import ServiceMessage
from fabric.wire.rows import ROWS
from tests.unit.wire.messages import messages, plain, request, unhurried

FIELDS = json.loads(encode_json(request({"a": 1})))
ARRAY: list[Any] = msgpack.unpackb(encode(request({"a": 1}, correlation_id="c", error={}, headers={})))
NAMES = ["from" if name == "source" else name for name in ServiceMessage._fields]


def refuse(data: bytes, content_type: str = MSGPACK, limits: Limits | None = None) -> str:
    """Why it is refused; anything but InvalidMessage fails the test."""
    with pytest.raises(InvalidMessage) as refused:
        decode(data, content_type, limits or Limits())
    assert len(str(refused.value)) < 400, "the text must not repeat the hostile input"
    return refused.value.reason


def only_invalid(data: bytes, content_type: str) -> None:
    """A message or InvalidMessage; every other error fails the test."""
    try:
        assert isinstance(decode(data, content_type), ServiceMessage)
    except InvalidMessage:
        pass


@unhurried
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xc1")
def test_arbitrary_bytes(data: bytes) -> None:
    """M31 (dramatiq#848): random bytes raise InvalidMessage and nothing else, as msgpack, JSON, batch, rows and unknown
    type."""
    for content_type in (MSGPACK, JSON, "text/plain"):
        only_invalid(data, content_type)
    for content_type in (MSGPACK, JSON, batch.BATCH, ROWS, ""):
        for item in batch.messages(data, content_type):
            assert type(item) in (ServiceMessage, InvalidMessage)


@unhurried
@given(plain(binary=True))
def test_arbitrary_values(value: object) -> None:
    """M31 (dramatiq#848): well-formed msgpack that is no message raises InvalidMessage and nothing else."""
    only_invalid(msgpack.packb(value), MSGPACK)
    for content_type in (batch.BATCH, ROWS):
        for item in batch.messages(msgpack.packb(value), content_type):
            assert type(item) in (ServiceMessage, InvalidMessage)


@unhurried
@given(st.lists(plain(binary=True), min_size=5, max_size=16))
def test_arbitrary_fields(fields: list[object]) -> None:
    """M31 (dramatiq#848): an array of about the right length with anything in it is a message or refused."""
    only_invalid(msgpack.packb(fields), MSGPACK)


@unhurried
@given(messages(binary=True), st.data())
def test_damaged_messages(message: ServiceMessage, data: st.DataObject) -> None:
    """M31 (dramatiq#848): a real message with a flipped byte, cut off or with more behind it raises nothing else."""
    body = bytearray(encode(message))
    where = data.draw(st.integers(0, len(body) - 1))
    refuse(bytes(body[:where]))
    refuse(bytes(body) + data.draw(st.binary(min_size=1, max_size=20)))
    refuse(bytes(body) * 2)
    body[where] = data.draw(st.integers(0, 255))
    only_invalid(bytes(body), MSGPACK)


@unhurried
@given(messages(binary=False), st.data())
def test_damaged_json(message: ServiceMessage, data: st.DataObject) -> None:
    """M31 (dramatiq#848): the same for JSON."""
    body = bytearray(encode_json(message))
    where = data.draw(st.integers(0, len(body) - 1))
    refuse(bytes(body[:where]), JSON)
    refuse(bytes(body) * 2, JSON)
    body[where] = data.draw(st.integers(0, 255))
    only_invalid(bytes(body), JSON)


class Launcher:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("content_type", [MSGPACK, JSON, "application/x-python-serialize", "application/pickle"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_never_loaded(content_type: str, protocol: int) -> None:
    """M31 (dramatiq#848): a pickle that would run code is refused under any content type."""
    refuse(pickle.dumps(Launcher(), protocol), content_type)
    for together in (batch.BATCH, ROWS):
        for item in batch.messages(pickle.dumps([Launcher()], protocol), together):
            assert type(item) is InvalidMessage


@pytest.mark.parametrize(
    "ext",
    [
        msgpack.packb(msgpack.ExtType(5, b"x")),
        msgpack.packb(msgpack.ExtType(5, b"")),
        msgpack.packb(msgpack.Timestamp(1, 1)),
        b"\xc7\x00\xff",
        b"\xc7\xff\x05" + b"x" * 255,
        b"\xc9\x7f\xff\xff\xff\x05",
        b"\xd6\xff\x00\x00\x00\x00",
    ],
)
def test_ext_types_are_refused(ext: bytes) -> None:
    """M31 (dramatiq#848): no msgpack ext type gets in, at the top, as a field, as a key or deep inside."""
    refuse(ext)
    refuse(b"\x9e" + ext * 14)
    refuse(encode(request("?")).replace(b"\xa1?", ext))
    refuse(encode(request("?")).replace(b"\xa1?", b"\x81" + ext + b"\x01"))
    refuse(encode(request("?")).replace(b"\xa1?", b"\x81\xa1k" + ext))


BOMBS = {
    "array of 2 G": b"\xdd\x7f\xff\xff\xff" + b"\x01" * 15,
    "map of 4 G": b"\xdf\xff\xff\xff\xff" + b"\x01" * 15,
    "bytes of 4 G": b"\xc6\xff\xff\xff\xff" + b"x" * 15,
    "text of 4 G": b"\xdb\xff\xff\xff\xff" + b"x" * 15,
    "ext of 4 G": b"\xc9\xff\xff\xff\xff\x01" + b"x" * 14,
    "arrays of a million in each other": b"\xdd\x00\x0f\x42\x40" * 500,
    "maps of a million in each other": (b"\xdf\x00\x0f\x42\x40" + b"\xa1k") * 400,
    "payload that claims 2 G": encode(request("?")).replace(b"\xa1?", b"\xdd\x7f\xff\xff\xff"),
    "payload of 64 K claims": encode(request("?")).replace(b"\xa1?", b"\xdc\xff\xff" * 60),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_claim_costs_no_memory(name: str) -> None:
    """M31 (dramatiq#848): a few bytes that claim gigabytes are refused before memory is spent on the claim."""
    data = BOMBS[name]
    refuse(data)
    tracemalloc.start()
    try:
        refuse(data)
        for content_type in (MSGPACK, batch.BATCH, ROWS):
            assert all(type(item) is InvalidMessage for item in batch.messages(data, content_type))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("depth", [65, 512, 100_000])
@pytest.mark.parametrize("step", [b"\x91", b"\x81\xa1k", b"\xdd\x00\x00\x00\x01"])
def test_deep_nesting(depth: int, step: bytes) -> None:
    """M31 (dramatiq#848): values nested deeper than the limit are refused, also where recursion would end the process."""
    deep = step * depth + b"\xc0"
    refuse(deep)
    assert "nested" in refuse(encode(request("?")).replace(b"\xa1?", deep)) or depth > 500
    text = (b"[" if step == b"\x91" else b'{"k":') * depth + b"1" + (b"]" if step == b"\x91" else b"}") * depth
    refuse(json.dumps({**FIELDS, "payload": "?"}).encode().replace(b'"?"', text), JSON)


def test_huge_maps_and_lists() -> None:
    """M31 (dramatiq#848): a map or list of more entries than the limit is refused, honest length or not."""
    limits = Limits(items=1000)
    for payload in ({str(n): n for n in range(1001)}, [0] * 1001, [[0] * 1001], {"a": {"b": [0] * 1001}}):
        refuse(encode(request(payload)), limits=limits)
        refuse(encode_json(request(payload)), JSON, limits)


@pytest.mark.parametrize("key", [1, 1.5, None, True, b"bytes", [1], {}])
def test_keys_that_are_not_text(key: object) -> None:
    """M31 (dramatiq#848): maps with keys other than text are refused: integers, whose hashes an attacker can choose, first."""
    packed = msgpack.packb(key)
    for shell in (b"\x81" + packed + b"\x01", b"\x91\x81\xa1a\x91\x81" + packed + b"\x01"):
        refuse(encode(request("?")).replace(b"\xa1?", shell))
        refuse(encode(request({"pad": "x" * 2000, "a": "?"})).replace(b"\xa1?", shell))
        refuse(msgpack.packb(ARRAY[:12]).replace(b"\x9c", b"\x9e") + b"\x80" + shell)


@pytest.mark.parametrize(
    "text", [b"\xa3\xed\xa0\x80", b"\xa1\xff", b"\xa2\xc0\x80", b"\xa4\xf5\x80\x80\x80", b"\xa6\xed\xa0\x80\xed\xb0\x80"]
)
def test_text_that_is_not_utf8(text: bytes) -> None:
    """M31 (dramatiq#848): surrogates, overlong and broken UTF-8 are refused as a value and as a key."""
    refuse(encode(request("?")).replace(b"\xa1?", text))
    refuse(encode(request("?")).replace(b"\xa1?", b"\x81" + text + b"\x01"))
    refuse(json.dumps({**FIELDS, "payload": "?"}).encode().replace(b"?", text[1:]), JSON)


def test_surrogates_in_json_escapes() -> None:
    """M31 (dramatiq#848): a lone surrogate written as an escape is refused: it could not be sent on."""
    refuse(json.dumps({**FIELDS, "payload": "\ud800"}).encode(), JSON)
    refuse(json.dumps({**FIELDS, "payload": {"\udfff": 1}}).encode(), JSON)


WRONG: dict[str, list[Any]] = {
    **{name: [None, 1, b"x", ["x"], {"x": 1}, True] for name in ("id", "from", "instance", "to", "method")},
    "type": [0, 10, -1, None, "1", [1], {}, 2**63, b"\x01"],
    "priority": [4, -1, None, "high", [1], {}, 2**63],
    "correlation_id": [1, b"x", [], {}, False],
    "reply_to": [1, b"x", [], {}, False],
    "deadline": ["soon", [], {}, True, 1e300, -1e300, float("nan"), float("inf"), float("-inf"), 2**63, b"1"],
    "attempt": [0, -1, 2**31, 1.0, None, "1", True, [], float("nan")],
    "error": [1, "failed", [], False, b"x", [["kind", "failed"]]],
    "headers": [1, "h", [], False, b"x"],
}


@pytest.mark.parametrize("name", WRONG)
def test_fields_of_the_wrong_type(name: str) -> None:
    """M31 (dramatiq#848): each field with a value that it can't have is refused by its name, in both codecs."""
    index = NAMES.index(name)
    for value in WRONG[name]:
        fields = copy.copy(ARRAY)
        fields[index] = value
        reason = refuse(msgpack.packb(fields))
        assert reason.startswith((name, "unknown type or priority")), (value, reason)
        try:
            body = json.dumps({**FIELDS, name: value}, allow_nan=True).encode()
        except TypeError:
            continue
        if value is not None or name not in ("correlation_id", "reply_to", "deadline", "error", "headers"):
            refuse(body, JSON)


@unhurried
@given(plain(binary=True), st.sampled_from(range(14)))
def test_any_value_in_any_field(value: object, index: int) -> None:
    """M31 (dramatiq#848): whatever stands in one field, the message is whole or refused, and then names that field."""
    fields = copy.copy(ARRAY)
    fields[index] = value
    found = next(iter(batch.messages(msgpack.packb(fields), MSGPACK)))
    if isinstance(found, InvalidMessage):
        assert found.reason.startswith((NAMES[index], "unknown type or priority"))
    else:
        assert found[index] == value


@pytest.mark.parametrize("name", ["id", "type", "from", "instance", "to", "method"])
def test_missing_fields(name: str) -> None:
    """M31 (dramatiq#848): a JSON object without a field that a message must have is refused by the field's name."""
    assert name in refuse(json.dumps({key: value for key, value in FIELDS.items() if key != name}).encode(), JSON)


@pytest.mark.parametrize("count", range(6))
def test_too_few_fields(count: int) -> None:
    """M31 (dramatiq#848): an array that ends before the method is refused."""
    refuse(msgpack.packb(ARRAY[:count]))


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [FIELDS], True])
def test_json_that_is_no_message(value: object) -> None:
    """M31 (dramatiq#848): JSON other than an object with the fields is refused."""
    refuse(json.dumps(value).encode(), JSON)


def test_compressed_and_foreign_bodies() -> None:
    """M31 (dramatiq#848): compressed data, AMQP frames and HTTP are refused like any other noise."""
    for data in (
        zlib.compress(b"x" * 10_000),
        b"AMQP\x00\x00\x09\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 1000,
        struct.pack(">Q", 1),
    ):
        refuse(data)
        refuse(data, JSON)


def test_the_text_of_a_refusal_is_short() -> None:
    """M31 (dramatiq#848): a megabyte of hostile text does not end up in a log line."""
    for data in (
        msgpack.packb("x" * 1_000_000),
        msgpack.packb([["y" * 1_000_000] * 3] * 14),
        b"\x81\xc4\x7f" + b"k" * 127 + b"\x01",
    ):
        refuse(data)
    refuse(b'{"id":"' + b"z" * 1_000_000 + b'"}', JSON)
    refuse(b"x" * 1_000_000, JSON)
    refuse(b"", "x" * 1_000_000)
