from __future__ import annotations

import datetime
import decimal
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, encode, header

from fabric.transports import amqp_frames as frames

short = st.text(max_size=40)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=8,
)


def unmarshal(data: bytes) -> list[tuple[int, Any]]:
    """All frames in ``data``, each with its channel, as pamqp reads them."""
    read = []
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        read.append((channel, frame))
        data = data[size:]
    return read


@given(
    channel=st.integers(1, 65535),
    exchange=short,
    key=short,
    content=st.binary(max_size=100),
    mandatory=st.booleans(),
    persistent=st.booleans(),
    priority=st.integers(0, 3),
    headers=st.none() | st.dictionaries(short, plain, max_size=3),
    expires=st.none() | st.floats(0, 1e6),
    message_id=st.none() | short,
    user_id=st.none() | short,
)
def test_what_we_write_is_what_pamqp_reads(
    channel: int,
    exchange: str,
    key: str,
    content: bytes,
    mandatory: bool,
    persistent: bool,
    priority: int,
    headers: dict[str, Any] | None,
    expires: float | None,
    message_id: str | None,
    user_id: str | None,
) -> None:
    """A publish of ours, taken apart by pamqp, has every property that was meant, and read by us too."""
    properties = frames.properties(
        content_type="text/plain",
        persistent=persistent,
        priority=priority,
        user_id=user_id,
        headers=None if headers is None else frames.table(headers),
        expires=expires,
        message_id=message_id,
    )
    method = frames.publish_method(channel, exchange, key, mandatory=mandatory)
    read = unmarshal(frames.publish(method, channel, 64, properties, content))
    assert {number for number, _ in read} == {channel}
    publish, head, *bodies = (frame for _, frame in read)
    assert isinstance(publish, commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key, bool(publish.mandatory)) == (exchange, key, mandatory)
    assert isinstance(head, header.ContentHeader)
    given = head.properties
    assert head.body_size == len(content)
    assert (given.content_type, given.delivery_mode, given.priority) == ("text/plain", 2 if persistent else 1, priority)
    assert (given.message_id, given.user_id) == (message_id, user_id)
    assert (given.expiration is None) == (expires is None)
    assert all(isinstance(part, body.ContentBody) for part in bodies)
    assert b"".join(part.value for part in bodies) == content
    ours = frames.read_properties(properties)
    assert ours == frames.Properties("text/plain", headers or {}, priority, message_id, user_id)


@given(st.binary(max_size=200))
def test_no_bytes_of_a_stranger_raise(data: bytes) -> None:
    """Whatever a header frame holds, reading it gives properties."""
    assert isinstance(frames.read_properties(data), frames.Properties)


def test_properties_of_others() -> None:
    """Properties that we never set, set by another client, are stepped over."""
    given = commands.Basic.Properties(
        content_type="a/b",
        content_encoding="gzip",
        headers={"d": decimal.Decimal("1.5"), "t": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
        delivery_mode=2,
        priority=2,
        correlation_id="c",
        reply_to="r",
        expiration="1000",
        message_id="m",
        timestamp=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        message_type="t",
        user_id="u",
        app_id="x",
    )
    read = frames.read_properties(given.marshal())
    assert read == frames.Properties("a/b", {"d": 1.5, "t": 1767225600.0}, 2, "m", "u")


def test_headers_nested_without_end() -> None:
    """M31: a table nested deeper than Python can read is taken as empty."""
    data = b""
    for _ in range(5000):
        data = b"\x01aF" + len(data).to_bytes(4, "big") + data
    assert frames.read_table(len(data).to_bytes(4, "big") + data) == {}


def test_a_table_of_pamqp() -> None:
    """A table that pamqp wrote is read with bytes as bytes."""
    assert frames.read_table(encode.field_table({"a": bytearray(b"x"), "b": [1, {"c": None}]})) == {
        "a": b"x",
        "b": [1, {"c": None}],
    }


def test_a_question_that_changes_nothing() -> None:
    """pamqp reads it as a prefetch for new consumers of the channel, of which a publishing one has none."""
    [(channel, frame)] = unmarshal(frames.qos(7))
    assert (channel, type(frame)) == (7, commands.Basic.Qos)
    assert dict(frame) == {"prefetch_size": 0, "prefetch_count": 1, "global_": False}


@pytest.mark.parametrize("frame", [frames.ack(7, 2**40), frames.nack(7, 2**40, requeue=True)])
def test_settling(frame: bytes) -> None:
    """Acks and nacks name their channel and tag."""
    ((channel, read),) = unmarshal(frame)
    assert (channel, read.delivery_tag) == (7, 2**40)
    assert isinstance(read, commands.Basic.Ack) or read.requeue
