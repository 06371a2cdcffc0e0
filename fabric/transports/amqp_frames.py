"""The frames of AMQP 0-9-1 that carry messages, written and read without a detour.

They are most of the traffic, so they are built from prepared pieces; everything else goes through aiormq and pamqp.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from pamqp import decode

_log = logging.getLogger("fabric.transports.amqp")

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
CONNECTION_CLOSE_OK_FRAME = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

FRAME_HEAD = struct.Struct(">BHI")
LONG = struct.Struct(">I")
LONG_LONG = struct.Struct(">Q")
CONTENT_HEAD = struct.Struct(">BHIHHQ")
_ACK = struct.Struct(">BHIHHQBB")
_QOS = struct.Struct(">BHIHHIHBB")
_INT64 = struct.Struct(">q")
_DOUBLE = struct.Struct(">d")
_SHORT = struct.Struct(">H")

BASIC = 60
DELIVER = (60 << 16) | 60
RETURN = (60 << 16) | 50
ACK = (60 << 16) | 80
NACK = (60 << 16) | 120
QOS_OK = (60 << 16) | 11
CANCEL = (60 << 16) | 30
CHANNEL_CLOSE = (20 << 16) | 40
CONNECTION_CLOSE = (10 << 16) | 50
CONNECTION_BLOCKED = (10 << 16) | 60
CONNECTION_UNBLOCKED = (10 << 16) | 61

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 1 << 10, 1 << 9, 1 << 8, 1 << 7
_TIMESTAMP, _TYPE, _USER_ID = 1 << 6, 1 << 5, 1 << 4


class Properties(NamedTuple):
    """What AMQP says of a message, as far as we use it."""

    content_type: str = ""
    headers: Mapping[str, Any] = {}
    priority: int = 0
    message_id: str | None = None
    user_id: str | None = None


def short_string(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"{text[:40]!r}... has {len(data)} bytes, and AMQP takes at most 255 there")
    return bytes((len(data),)) + data


# -- writing ------------------------------------------------------------------------------------------------------


def publish_method(channel: int, exchange: str, key: str, *, mandatory: bool) -> bytes:
    """The ``basic.publish`` frame; the same for all messages to one place."""
    name, route = short_string(exchange), short_string(key)
    payload = b"\x00\x3c\x00\x28\x00\x00" + name + route + (b"\x01" if mandatory else b"\x00")
    return FRAME_HEAD.pack(METHOD, channel, len(payload)) + payload + END


def properties(
    *,
    content_type: str,
    persistent: bool,
    priority: int,
    user_id: str | None,
    headers: bytes | None = None,
    expires: float | None = None,
    message_id: str | None = None,
) -> bytes:
    """The property flags and values of a content header.

    Args:
        headers: as ``table`` made them.
        expires: seconds.
    """
    flags = _CONTENT_TYPE | _DELIVERY_MODE | _PRIORITY
    parts = [b"", short_string(content_type)]
    if headers is not None:
        flags |= _HEADERS
        parts.append(headers)
    parts.append(bytes((2 if persistent else 1, priority)))
    if expires is not None:
        flags |= _EXPIRATION
        parts.append(short_string(str(max(0, math.ceil(expires * 1000)))))
    if message_id is not None:
        flags |= _MESSAGE_ID
        parts.append(short_string(message_id))
    if user_id is not None:
        flags |= _USER_ID
        parts.append(short_string(user_id))
    parts[0] = _SHORT.pack(flags)
    return b"".join(parts)


class Prepared:
    """The properties of messages that differ in nothing but when they expire and in their id, which is most of them."""

    __slots__ = ("_begin", "_end")

    def __init__(self, *, content_type: str, priority: int, user_id: str | None) -> None:
        flags = _CONTENT_TYPE | _DELIVERY_MODE | _PRIORITY | _EXPIRATION | _MESSAGE_ID | (_USER_ID if user_id is not None else 0)
        self._begin = _SHORT.pack(flags) + short_string(content_type) + bytes((1, priority))
        self._end = short_string(user_id) if user_id is not None else b""

    def filled(self, expires: float, message_id: bytes) -> bytes:
        """
        Args:
            expires: seconds, from 0 to the largest number that 255 digits can write.
            message_id: at most 255 bytes.
        """
        milliseconds = b"%d" % math.ceil(expires * 1000)
        return b"%b%c%b%c%b%b" % (self._begin, len(milliseconds), milliseconds, len(message_id), message_id, self._end)


def publish(method: bytes, channel: int, frame_max: int, properties: bytes, body: bytes) -> bytes:
    """All frames of one publish, ready to write."""
    size = len(body)
    head = CONTENT_HEAD.pack(HEADER, channel, 12 + len(properties), BASIC, 0, size)
    room = frame_max - 8
    if size <= room:
        if not size:
            return b"".join((method, head, properties, END))
        return b"".join((method, head, properties, END, FRAME_HEAD.pack(BODY, channel, size), body, END))
    parts = [method, head, properties, END]
    for start in range(0, size, room):
        chunk = body[start : start + room]
        parts += (FRAME_HEAD.pack(BODY, channel, len(chunk)), chunk, END)
    return b"".join(parts)


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """``multiple``: all before it too."""
    return _ACK.pack(METHOD, channel, 13, BASIC, 80, tag, 1 if multiple else 0, 0xCE)


def qos(channel: int) -> bytes:
    """Asks for nothing that a channel without consumers would notice."""
    return _QOS.pack(METHOD, channel, 11, BASIC, 10, 0, 1, 0, 0xCE)


def nack(channel: int, tag: int, *, requeue: bool) -> bytes:
    return _ACK.pack(METHOD, channel, 13, BASIC, 120, tag, 2 if requeue else 0, 0xCE)


def table(values: Mapping[str, Any]) -> bytes:
    """A field table. Floats keep all their bits, which pamqp's do not."""
    data = b"".join(short_string(name) + _value(value) for name, value in values.items())
    return LONG.pack(len(data)) + data


def _value(value: Any) -> bytes:
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        return b"l" + _INT64.pack(value)
    if isinstance(value, float):
        return b"d" + _DOUBLE.pack(value)
    if isinstance(value, str):
        data = value.encode()
        return b"S" + LONG.pack(len(data)) + data
    if isinstance(value, bytes):
        return b"x" + LONG.pack(len(value)) + value
    if isinstance(value, Mapping):
        return b"F" + table(value)
    if isinstance(value, list | tuple):
        data = b"".join(map(_value, value))
        return b"A" + LONG.pack(len(data)) + data
    raise ValueError(f"headers are plain data, not {type(value).__name__}")


# -- reading ------------------------------------------------------------------------------------------------------


def read_short_string(data: bytes, offset: int) -> tuple[str, int]:
    end = offset + 1 + data[offset]
    return data[offset + 1 : end].decode(errors="replace"), end


def read_tag(deliver: bytes) -> tuple[int, bool]:
    """Of the payload of a deliver method: the delivery's tag, and whether it was delivered before."""
    offset = 5 + deliver[4]
    (tag,) = LONG_LONG.unpack_from(deliver, offset)
    return tag, bool(deliver[offset + 8])


def read_place(deliver: bytes) -> tuple[str, str]:
    """Of the same: the exchange and the key with which it was published."""
    exchange, end = read_short_string(deliver, 14 + deliver[4])
    return exchange, read_short_string(deliver, end)[0]


def read_properties(data: bytes) -> Properties:
    """Of a content header's payload after its size. What can't be read is taken as not there: it came from a stranger."""
    try:
        return _read_properties(data)
    except (IndexError, struct.error):
        return Properties()


def _read_properties(data: bytes) -> Properties:
    (flags,) = _SHORT.unpack_from(data, 0)
    offset = 2
    more = flags
    while more & 1:
        (more,) = _SHORT.unpack_from(data, offset)
        offset += 2
    content_type, headers, priority = "", {}, 0
    message_id = user_id = None
    if flags & _CONTENT_TYPE:
        content_type, offset = read_short_string(data, offset)
    if flags & _CONTENT_ENCODING:
        _, offset = read_short_string(data, offset)
    if flags & _HEADERS:
        (size,) = LONG.unpack_from(data, offset)
        headers = read_table(data[offset : offset + 4 + size])
        offset += 4 + size
    if flags & _DELIVERY_MODE:
        offset += 1
    if flags & _PRIORITY:
        priority = data[offset]
        offset += 1
    for flag in (_CORRELATION_ID, _REPLY_TO, _EXPIRATION):
        if flags & flag:
            offset += 1 + data[offset]
    if flags & _MESSAGE_ID:
        message_id, offset = read_short_string(data, offset)
    if flags & _TIMESTAMP:
        offset += 8
    if flags & _TYPE:
        offset += 1 + data[offset]
    if flags & _USER_ID:
        user_id, offset = read_short_string(data, offset)
    return Properties(content_type, headers, priority, message_id, user_id)


def read_table(data: bytes) -> dict[str, Any]:
    """Empty if it can't be read: what a stranger can put there is without end, and so are the ways in which pamqp fails on it."""
    try:
        _, values = decode.field_table(data)
        return {name: plain(value) for name, value in values.items()}
    except Exception as error:
        _log.info("headers of a message could not be read: %r", error)
        return {}


def plain(value: Any) -> Any:
    """What pamqp read, in our kinds of plain data."""
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
