"""Frames between the embedded broker and its clients."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.errors import ConfigurationError, FabricError, InvalidMessage, NoRoute, TopologyConflict
from fabric.transports.base import DeadLetter
from fabric.transports.embedded_frames import LENGTH, FrameReader, from_letters, refusal, refused, to_letters

WORDS = st.lists(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(), st.binary()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
        max_leaves=6,
    ),
    min_size=1,
    max_size=4,
)


def frame(words: list[Any]) -> bytes:
    data: bytes = msgpack.packb(words)
    return len(data).to_bytes(LENGTH) + data


@settings(max_examples=50)
@given(st.lists(WORDS, max_size=4), st.data())
def test_cut_anywhere(frames: list[list[Any]], data: st.DataObject) -> None:
    """However the bytes are cut on their way, the same frames come out."""
    rest = b"".join(frame(words) for words in frames)
    reader, got = FrameReader(1_000_000), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        reader.feed(rest[:size])
        rest = rest[size:]
        while (words := reader.next()) is not None:
            got.append(words)
    assert got == frames


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    """Any bytes are frames, wait for more, or are refused as InvalidMessage."""
    reader = FrameReader(1_000)
    reader.feed(data)
    try:
        while reader.next() is not None:
            pass
    except InvalidMessage:
        pass


def test_limit_before_memory() -> None:
    """A length over the limit is refused from its four bytes, before anything else has come."""
    reader = FrameReader(100)
    reader.feed((101).to_bytes(LENGTH))
    with pytest.raises(InvalidMessage, match="101 bytes is over the limit of 100"):
        reader.next()


@pytest.mark.parametrize("error", [TopologyConflict("q", "why"), NoRoute("e", "k"), ConfigurationError("no such exchange")])
def test_refusals(error: FabricError) -> None:
    """An error of the broker is the same on the other side."""
    again = refused(*msgpack.unpackb(msgpack.packb(refusal(error))))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_dead_letters() -> None:
    """A dead letter is the same on the other side."""
    letter = DeadLetter(
        id="i",
        queue="q",
        exchange="e",
        key="k",
        body=b"\xff",
        content_type="c",
        reason="r",
        attempts=3,
        died_at=1.5,
        headers={"a": [1]},
        history=({"at": 1.0, "reason": "r", "instance": "i"},),
    )
    assert to_letters(msgpack.unpackb(msgpack.packb(from_letters([letter])))) == [letter]
