"""The socket of one connection takes frames however the network cuts them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from fabric.transports import amqp_frames as frames
from fabric.transports.amqp_wire import Wire
from tests.unit.wire.messages import unhurried

DELIVER = b"\x00\x3c\x00\x3c\x01c" + (7).to_bytes(8, "big") + b"\x00\x03rpc\x05inbox"
RETURN = b"\x00\x3c\x00\x32\x01\x38\x08NO_ROUTE\x03rpc\x05inbox"


@dataclass
class Heard:
    """A lane that keeps what it is told."""

    told: list[object] = field(default_factory=list)

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        self.told.append((method, header, body))

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        self.told.append((tag, multiple, taken))

    def on_fence(self) -> bool:
        self.told.append("fence")
        return True

    def on_cancel(self) -> None:
        self.told.append("cancel")

    def on_close(self, code: int, reason: str) -> None:
        self.told.append((code, reason))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return frames.FRAME_HEAD.pack(kind, channel, len(payload)) + payload + frames.END


def content(channel: int, method: bytes, body: bytes, size: int) -> list[bytes]:
    """The frames of a message whose body frames hold ``size`` bytes at most."""
    header = b"\x00\x3c\x00\x00" + len(body).to_bytes(8, "big") + b"\x08\x00\x02"
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return [
        frame(frames.METHOD, channel, method),
        frame(frames.HEADER, channel, header),
        *(frame(frames.BODY, channel, chunk) for chunk in chunks),
    ]


Message = tuple[int, bytes, bytes, int]
messages = st.lists(
    st.tuples(st.integers(1, 2), st.sampled_from([DELIVER, RETURN]), st.binary(max_size=60), st.integers(1, 60)), max_size=12
)


@unhurried
@given(messages, st.lists(st.integers(1, 80), min_size=1), st.booleans())
def test_any_cut_gives_the_same_messages(sent: list[Message], cuts: list[int], between: bool) -> None:
    """Whole messages, those in several body frames, empty ones, confirms and heartbeats between the frames of a message: cut
    anywhere, each lane hears the same in the same order, and nothing of it is left over."""

    async def heard() -> None:
        wire = Wire(lost=lambda code, reason: None, blocked=lambda reason: None, resumed=lambda: None)
        lanes = {1: Heard(), 2: Heard()}
        wire.lanes.update(lanes)
        data = b""
        expected: dict[int, list[object]] = {1: [], 2: []}
        for number, (channel, method, body, size) in enumerate(sent):
            confirm = frame(frames.METHOD, 3 - channel, b"\x00\x3c\x00\x50" + number.to_bytes(8, "big") + b"\x01")
            pieces = content(channel, method, body, size)
            if between:  # what goes on other channels may come between the frames of a message
                pieces = [piece for each in pieces for piece in (each, confirm, frames.HEARTBEAT_FRAME)]
                expected[3 - channel] += [(number, True, True)] * (len(pieces) // 3)
            data += b"".join(pieces)
            expected[channel].append((method, b"\x08\x00\x02", body))
        at = 0
        while at < len(data):
            for cut in cuts:
                wire.data_received(data[at : at + cut])
                at += cut
        assert {channel: lane.told for channel, lane in lanes.items()} == expected
        assert not wire._rest
        assert not wire._contents

    asyncio.run(heard())
