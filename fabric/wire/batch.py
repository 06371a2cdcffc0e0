"""Several messages in one body, so that the broker's and the client's cost per message is paid once.

A batch is a msgpack array of byte strings, each an encoded message. One damaged message spoils only itself. A lone message
travels as it is, so that a client in another language need not know of batches to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgpack

from fabric.errors import InvalidMessage
from fabric.wire import rows
from fabric.wire.codec import DEFAULT_LIMITS, MSGPACK, Limits, decode_all
from fabric.wire.message import ServiceMessage
from fabric.wire.rows import ROWS

BATCH: Final = "application/vnd.fabric.batch+msgpack"
OVERHEAD: Final = 5
"""Bytes that a batch adds to each message at most, and to the whole."""

MOST_STORED: Final = 1024
"""Messages that one stored body may hold; ours hold fewer. Each may need a place of its own later."""

_SMALLEST: Final = 9
_FEW: Final = 1024

_pack = msgpack.Packer(autoreset=True).pack


def join(messages: Sequence[bytes]) -> bytes:
    """Encoded messages as one body of content type ``BATCH``."""
    body: bytes = _pack(messages)
    return body


def split(body: bytes, content_type: str) -> Sequence[bytes]:
    """The encoded messages of a body: itself alone, unless it is a batch.

    Raises:
        InvalidMessage: it says that it is a batch and is not.
    """
    if content_type != BATCH:
        return (body,)
    # Nothing that small can be a message: a megabyte of empty ones would only keep us busy with refusing them.
    most = max(_FEW, len(body) // _SMALLEST)
    try:
        parts = msgpack.unpackb(body, raw=True, max_array_len=most, max_map_len=0, max_ext_len=0, max_str_len=0)
    except Exception as error:
        raise InvalidMessage(f"not a batch: {type(error).__name__}") from error
    if type(parts) is not list or not all(type(part) is bytes for part in parts):
        raise InvalidMessage("not a batch: an array of byte strings was expected")
    return parts


def split_stored(body: bytes) -> list[bytes]:
    """The encoded messages of a batch that was stored.

    Raises:
        InvalidMessage: it is none, is empty, or holds more than ``MOST_STORED``.
    """
    parts = split(body, BATCH)
    if not 0 < len(parts) <= MOST_STORED:
        raise InvalidMessage(f"a batch of {len(parts)} messages, and 1 to {MOST_STORED} are allowed")
    return list(parts)


def messages(body: bytes, content_type: str, limits: Limits = DEFAULT_LIMITS) -> list[ServiceMessage | InvalidMessage]:
    """Each message of a body of any type in order, or for a damaged one the error."""
    if content_type == ROWS:
        return rows.read(body, limits)
    if content_type != BATCH:
        return decode_all((body,), content_type, limits)
    try:
        return decode_all(split(body, content_type), MSGPACK, limits)
    except InvalidMessage as error:
        return [error]
