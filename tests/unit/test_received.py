"""The messages in what a transport delivers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from fabric.errors import InvalidMessage
from fabric.received import received
from fabric.transports.base import Delivery
from fabric.wire import batch
from fabric.wire.codec import DEFAULT_LIMITS, JSON, MSGPACK, Limits, decode_all, encode, encode_json
from fabric.wire.message import JsonMessage, ServiceMessage
from tests.unit.wire.messages import messages, request, unhurried


def delivery(body: bytes, content_type: str) -> Delivery:
    return cast(Delivery, SimpleNamespace(body=body, content_type=content_type))


def shown(found: list[Any]) -> list[Any]:
    """Errors compare by what they say."""
    return [item.reason if isinstance(item, InvalidMessage) else (type(item), item) for item in found]


@unhurried
@given(st.lists(st.binary(max_size=30) | messages(binary=True).map(encode), max_size=5))
@example([])
@example([b"\xc1"])
def test_it_is_what_reading_one_by_one_gives(parts: list[bytes]) -> None:
    """Good and damaged messages of a batch come out as each would alone, in order."""
    found = received(delivery(batch.join(parts), batch.BATCH), DEFAULT_LIMITS)
    assert shown(found) == shown(list(batch.messages(batch.join(parts), batch.BATCH)))
    assert len(found) == len(parts)


@unhurried
@given(st.binary(max_size=60), st.sampled_from([batch.BATCH, MSGPACK, JSON, "text/plain", ""]))
def test_bytes_that_are_anything(body: bytes, content_type: str) -> None:
    """M31 (dramatiq#848): whatever comes is messages or InvalidMessage; a body that is no batch is one error."""
    found = received(delivery(body, content_type), DEFAULT_LIMITS)
    assert all(isinstance(item, (ServiceMessage, InvalidMessage)) for item in found)
    assert shown(found) == shown(list(batch.messages(body, content_type)))


def test_json_comes_alone_and_is_remembered_as_such() -> None:
    """What answers it has to be JSON too."""
    (found,) = received(delivery(encode_json(request({"a": 1})), JSON), DEFAULT_LIMITS)
    assert type(found) is JsonMessage
    assert found == request({"a": 1})


def test_limits_hold_for_each() -> None:
    """One over the limit, or with a key that is not text, is refused in its place; a map of many keys passes."""
    small, large = encode(request("a")), encode(request("x" * 1000))
    found = decode_all([small, large, small], MSGPACK, Limits(message_bytes=500))
    assert [type(item) for item in found] == [ServiceMessage, InvalidMessage, ServiceMessage]
    odd = [encode(request(payload)) for payload in ({b"key": 1}, {"a": {b"key": 1}}, {str(n): [n] for n in range(20)})]
    assert [type(item) for item in decode_all(odd)] == [InvalidMessage, InvalidMessage, ServiceMessage]
