"""Several messages in one body."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import InvalidMessage
from fabric.wire import batch
from fabric.wire.codec import JSON, MSGPACK, Limits, encode, encode_json
from fabric.wire.message import JsonMessage, ServiceMessage
from fabric.wire.rows import ROWS
from tests.unit.wire.messages import messages, request, unhurried


@unhurried
@given(st.lists(messages(binary=True), max_size=3))
def test_a_batch_keeps_messages_and_order(many: list[ServiceMessage]) -> None:
    """Any messages come out of a batch as they went in, in the same order."""
    assert batch.messages(batch.join([encode(message) for message in many]), batch.BATCH) == many


@unhurried
@given(messages(binary=True))
def test_a_lone_message_needs_no_batch(message: ServiceMessage) -> None:
    """A message that travels alone is read as what it is, in its own content type."""
    assert batch.messages(encode(message), MSGPACK) == [message]


def test_a_lone_json_message() -> None:
    """A client in another language sends single JSON messages; that it was one is remembered, for the answer to be one too."""
    (found,) = batch.messages(encode_json(request({"a": 1})), JSON)
    assert type(found) is JsonMessage
    assert found == request({"a": 1})


@unhurried
@given(st.binary(max_size=60), st.sampled_from([batch.BATCH, ROWS, MSGPACK, JSON, "text/plain", ""]))
def test_bytes_that_are_anything(body: bytes, content_type: str) -> None:
    """M31 (dramatiq#848): whatever comes is messages or InvalidMessage."""
    assert all(isinstance(item, ServiceMessage | InvalidMessage) for item in batch.messages(body, content_type))


def test_keys_that_are_not_text_and_maps_of_many() -> None:
    """A key that is not text is refused at any depth, and a map of many keys passes."""
    bodies = [encode(request(payload)) for payload in ({b"key": 1}, {"a": {b"key": 1}}, {str(n): [n] for n in range(20)})]
    found = batch.messages(batch.join(bodies), batch.BATCH)
    assert [type(item) for item in found] == [InvalidMessage, InvalidMessage, ServiceMessage]


@unhurried
@given(st.lists(st.binary(max_size=30) | messages(binary=True), max_size=5))
def test_a_damaged_message_spoils_only_itself(parts: list[bytes | ServiceMessage]) -> None:
    """M31 (dramatiq#848): each good message of a batch arrives, each bad one is an InvalidMessage in its place."""
    bodies = [encode(part) if isinstance(part, ServiceMessage) else part for part in parts]
    found = batch.messages(batch.join(bodies), batch.BATCH)
    assert len(found) == len(parts)
    for part, item in zip(parts, found, strict=True):
        if isinstance(part, ServiceMessage):
            assert item == part
        else:
            assert isinstance(item, InvalidMessage | ServiceMessage)


def test_limits_hold_for_each_message_of_a_batch() -> None:
    """A message over the limit is refused inside a batch too, and its neighbours arrive."""
    small, large = request("a"), request("x" * 1000)
    found = list(
        batch.messages(batch.join([encode(small), encode(large), encode(small)]), batch.BATCH, Limits(message_bytes=500))
    )
    assert [found[0], found[2]] == [small, small]
    assert isinstance(found[1], InvalidMessage)


@unhurried
@given(st.lists(st.binary(max_size=200), max_size=40))
def test_the_overhead_is_what_the_sender_counts_with(parts: list[bytes]) -> None:
    """OVERHEAD for each message and once for the whole bounds the size of a body, so that a batch never exceeds its limit."""
    body = batch.join(parts)
    assert len(body) <= sum(len(part) + batch.OVERHEAD for part in parts) + batch.OVERHEAD
    assert list(batch.split(body, batch.BATCH)) == parts


def test_the_overhead_holds_for_large_messages() -> None:
    """The longest headers that msgpack has are within OVERHEAD."""
    assert len(batch.join([b"x" * 70_000] * 3)) <= 3 * (70_000 + batch.OVERHEAD) + batch.OVERHEAD
    assert len(batch.join([b""] * 70_000)) <= 70_000 * batch.OVERHEAD


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x90\x90",
        b"\xc4\x01x",
        encode(request()),
        msgpack.packb({"a": b"x"}),
        msgpack.packb([1, b"x"]),
        msgpack.packb([[b"x"]]),
        msgpack.packb(["text"]),
        msgpack.packb([b"x", msgpack.ExtType(1, b"x")]),
        msgpack.packb([b"x", None]),
        msgpack.packb([b"x"])[:-1],
        msgpack.packb([b"x"]) + b"\x00",
        b"\xdd\x7f\xff\xff\xff" + b"\xc4\x01x" * 5,
    ],
)
def test_what_only_claims_to_be_a_batch(body: bytes) -> None:
    """M31 (dramatiq#848): a body that says it is a batch and is not is one InvalidMessage."""
    with pytest.raises(InvalidMessage, match="not a batch"):
        batch.split(body, batch.BATCH)
    found = list(batch.messages(body, batch.BATCH))
    assert len(found) == 1
    assert isinstance(found[0], InvalidMessage)


def test_a_batch_within_a_batch_is_refused() -> None:
    """M31 (dramatiq#848): batches do not nest, so that a small body can't unfold."""
    inner = batch.join([encode(request())])
    found = list(batch.messages(batch.join([inner, encode(request())]), batch.BATCH))
    assert isinstance(found[0], InvalidMessage)
    assert found[1] == request()


def test_a_megabyte_of_empty_messages_is_refused_at_once() -> None:
    """M31 (dramatiq#848): a body of nothing but empty messages is refused as one, not a million times."""
    assert len(list(batch.messages(msgpack.packb([b""] * 500_000), batch.BATCH))) == 1


def test_a_batch_of_the_smallest_messages_passes() -> None:
    """The bound on the number of messages in a body never hits real ones, however small."""
    smallest = encode(ServiceMessage("", request().type, "", "", "", ""))
    shortest = msgpack.packb(["", 1, "", "", "", ""])
    assert len(shortest) < len(smallest)
    assert len(list(batch.messages(batch.join([shortest] * 5000), batch.BATCH))) == 5000
