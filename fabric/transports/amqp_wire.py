"""The socket of one connection: frames that carry messages go straight to their lane, all others to aiormq.

aiormq passes each frame through a stream, a queue and a task of its own. For the few frames of opening, declaring and closing
that does not matter; for deliveries and confirms it is most of what a message costs. So its reader is fed only what it is
good for, and both write to the same transport, whole frames at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from fabric.transports import amqp_frames as frames

_FEED_SECONDS = 1.0
_MOST_FRAME = 16 * 1024 * 1024
_WORTH_A_WRITE = 4096
"""Bytes that leave before the end of the turn, so that the other end can work on them meanwhile."""
_WITH_CONTENT = frozenset((frames.LONG.pack(frames.DELIVER), frames.LONG.pack(frames.RETURN)))


class Lane(Protocol):
    """What listens on one channel. Called while bytes are being read: must not block or raise."""

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """A delivery or a returned message: the payloads of its method and header frames, and its body."""
        ...

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        """The broker has taken (or refused) the publish ``tag``, and all before it if ``multiple``."""
        ...

    def on_fence(self) -> bool:
        """The broker has done all that came before a question on this channel. False: the question was another's."""
        ...

    def on_cancel(self) -> None:
        """The broker ended the consumer."""
        ...

    def on_close(self, code: int, reason: str) -> None:
        """The channel is gone, by the broker's word. Nothing more may be written on it."""
        ...


class _Content:
    """A message whose frames are still coming."""

    __slots__ = ("header", "left", "method", "parts")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.left = -1
        self.parts: list[bytes] = []


class Wire(asyncio.StreamReaderProtocol):
    """Splits what comes into frames, and gathers what goes into few writes.

    Args:
        lost: called once, with the reason, when the link is gone or the broker says that it ends it.
        blocked: called with the broker's reason when it takes no publishes, and with None when it does again.
        resumed: called when the network takes bytes again.
    """

    def __init__(
        self,
        *,
        lost: Callable[[int, str], None],
        blocked: Callable[[str | None], None],
        resumed: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(loop=self.loop)
        super().__init__(self.reader, loop=self.loop)
        self.lanes: dict[int, Lane] = {}
        self.received_at = self.loop.time()
        self.paused = False
        self._lost, self._blocked, self._resumed = lost, blocked, resumed
        self._socket: asyncio.Transport | None = None
        self._rest = b""
        self._contents: dict[int, _Content] = {}
        self._fed_at = 0.0
        self._corked = False
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0

    # -- the socket -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._socket = transport  # type: ignore[assignment]
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.paused = True
        # without this aiormq would log a traceback of its reader, for what is an everyday event
        self.reader.feed_data(frames.CONNECTION_CLOSE_OK_FRAME)
        super().connection_lost(None)
        self._socket = None
        self._lost(0, str(exc) if exc else "closed by the other end")

    def eof_received(self) -> bool:
        """The other end says no more: close."""
        return False

    def pause_writing(self) -> None:
        self.paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self.paused = False
        super().resume_writing()
        self._resumed()

    def abort(self) -> None:
        if self._socket is not None:
            self._socket.abort()

    # -- writing --------------------------------------------------------------------------------------------------

    def holds_over(self, most: int) -> bool:
        """Whether more than ``most`` bytes are not yet taken by the network."""
        if self._outgoing_bytes > most:
            return True
        return self.paused and self._socket is not None and self._outgoing_bytes + self._socket.get_write_buffer_size() > most

    def write(self, data: bytes) -> None:
        """Write whole frames. Those of a loop turn leave together at its end, or as soon as they are worth a write."""
        if self._socket is None:
            return
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)
        if self._outgoing_bytes >= _WORTH_A_WRITE:
            self.flush()
        elif not self._corked:
            self._corked = True
            self.loop.call_soon(self._uncork)

    def _uncork(self) -> None:
        self._corked = False
        self.flush()

    def flush(self) -> None:
        """Hand what was written to the network."""
        if self._outgoing and self._socket is not None:
            data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._socket.write(data)

    # -- reading --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.received_at = now = self.loop.time()
        if self._rest:
            data = self._rest + data
        offset, end = 0, len(data)
        while end - offset >= 7:
            kind, channel, size = frames.FRAME_HEAD.unpack_from(data, offset)
            if size > _MOST_FRAME or kind > frames.HEARTBEAT:
                self._feed(data[offset:], now)
                offset = end
                break
            stop = offset + size + 8
            if stop > end:
                break
            if kind == frames.METHOD and (behind := self._take_whole(channel, data, offset + 7, stop, end)):
                offset = behind
                continue
            if not self._take(kind, channel, data, offset + 7, stop - 1):
                self._feed(data[offset:stop], now)
            offset = stop
        self._rest = data[offset:] if offset < end else b""
        if now - self._fed_at > _FEED_SECONDS:
            # aiormq must not think that the link is silent only because all of it went to the lanes
            self._feed(frames.HEARTBEAT_FRAME, now)

    def _feed(self, data: bytes, now: float) -> None:
        self._fed_at = now
        super().data_received(data)

    def _take_whole(self, channel: int, data: bytes, start: int, stop: int, end: int) -> int:
        """Take a message all of which is here, in one frame each of method, header and body, as nearly every one is.

        Returns:
            The offset behind it; 0 if it is something else.
        """
        lane = self.lanes.get(channel)
        if lane is None or data[start : start + 4] not in _WITH_CONTENT or end - stop < frames.CONTENT_HEAD.size:
            return 0
        header, its_channel, size, _, _, length = frames.CONTENT_HEAD.unpack_from(data, stop)
        begin = stop + size + 8  # of the body's frame
        body = begin + 7
        behind: int = body + length + 1
        if header != frames.HEADER or its_channel != channel or not length or behind > end:
            return 0
        kind, its_channel, size = frames.FRAME_HEAD.unpack_from(data, begin)
        if kind != frames.BODY or its_channel != channel or size != length:
            return 0
        lane.on_content(data[start : stop - 1], data[stop + 19 : begin - 1], data[body : behind - 1])
        return behind

    def _take(self, kind: int, channel: int, data: bytes, start: int, stop: int) -> bool:
        """Whether the frame was for a lane and needs nobody else."""
        if kind == frames.METHOD:
            (method,) = frames.LONG.unpack_from(data, start)
            if channel == 0:
                return self._listen(method, data[start + 4 : stop])
            lane = self.lanes.get(channel)
            return lane is not None and self._take_method(lane, channel, method, data, start + 4, stop)
        content = self._contents.get(channel)
        if content is None:
            return False
        if kind == frames.BODY:
            content.parts.append(data[start:stop])
            content.left -= stop - start
        elif kind == frames.HEADER:
            (content.left,) = frames.LONG_LONG.unpack_from(data, start + 4)
            content.header = data[start + 12 : stop]
        if content.left <= 0:
            del self._contents[channel]
            body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
            lane = self.lanes.get(channel)
            if lane is not None:
                lane.on_content(content.method, content.header, body)
        return True

    def _take_method(self, lane: Lane, channel: int, method: int, data: bytes, start: int, stop: int) -> bool:
        if method in (frames.DELIVER, frames.RETURN):
            self._contents[channel] = _Content(data[start - 4 : stop])
            return True
        if method in (frames.ACK, frames.NACK):
            (tag,) = frames.LONG_LONG.unpack_from(data, start)
            lane.on_confirm(tag, multiple=bool(data[start + 8] & 1), taken=method == frames.ACK)
            return True
        if method == frames.QOS_OK:
            return lane.on_fence()
        if method == frames.CANCEL:
            lane.on_cancel()
        elif method == frames.CHANNEL_CLOSE:
            code, reason = _read_close(data[start:stop])
            self.lanes.pop(channel, None)
            self._contents.pop(channel, None)
            lane.on_close(code, reason)
        return False

    def _listen(self, method: int, payload: bytes) -> bool:
        if method == frames.CONNECTION_BLOCKED:
            reason, _ = frames.read_short_string(payload, 0)
            self._blocked(reason)
        elif method == frames.CONNECTION_UNBLOCKED:
            self._blocked(None)
        elif method == frames.CONNECTION_CLOSE:
            self._lost(*_read_close(payload))
            if self._socket is not None:
                self._socket.write(frames.CONNECTION_CLOSE_OK_FRAME)
            self._feed(frames.CONNECTION_CLOSE_OK_FRAME, self.received_at)
            return True
        return False


def _read_close(payload: bytes) -> tuple[int, str]:
    reason, _ = frames.read_short_string(payload, 2)
    return int.from_bytes(payload[:2], "big"), reason
