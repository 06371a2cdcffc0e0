"""What may be in the headers of a message, and on which keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESERVED = "x-"
MOST_BYTES = 64 * 1024
MOST_DEPTH = 8
MOST_KEY_BYTES = 255


def check_key(key: str) -> None:
    """AMQP has one byte for the length of a routing key.

    Raises:
        ValueError: longer than 255 bytes.
    """
    if len(key) > MOST_KEY_BYTES // 4 and len(key.encode()) > MOST_KEY_BYTES:
        raise ValueError(f"a key of {len(key.encode())} bytes is over the limit of {MOST_KEY_BYTES}: shorten the name")


def checked_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy that any broker can carry.

    Raises:
        ValueError: reserved names, values that are not plain data, too deep or too large.
    """
    for name in headers:
        if isinstance(name, str) and name[:2].lower() == RESERVED:
            raise ValueError(f"the header {name!r} is the broker's: use a name that does not begin with {RESERVED!r}")
    copy, size = _copied(dict(headers), MOST_DEPTH)
    if size > MOST_BYTES:
        raise ValueError(f"headers of {size} bytes are over the limit of {MOST_BYTES}: put such data into the body")
    assert isinstance(copy, dict)
    return copy


def without_reserved(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a message from anywhere, without those of the broker's own."""
    return {name: value for name, value in headers.items() if isinstance(name, str) and name[:2].lower() != RESERVED}


def _copied(value: Any, depth: int) -> tuple[Any, int]:
    """The value copied, and about how many bytes it takes."""
    if value is None or isinstance(value, bool | float):
        return value, 9
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"the header value {value} does not fit into 64 bits")
        return int(value), 9
    if isinstance(value, str):
        return str(value), 5 + len(value.encode("utf-8"))
    if isinstance(value, bytes):
        return value, 5 + len(value)
    if depth == 0:
        raise ValueError(f"headers are nested deeper than {MOST_DEPTH}")
    if isinstance(value, list | tuple):
        items = [_copied(item, depth - 1) for item in value]
        return [item for item, _ in items], 5 + sum(size for _, size in items)
    if isinstance(value, dict):
        total, copy = 5, {}
        for name, item in value.items():
            if not isinstance(name, str) or not 0 < len(name.encode("utf-8")) <= MOST_KEY_BYTES:
                raise ValueError(f"header names are strings of 1 to {MOST_KEY_BYTES} bytes, not {name!r:.80}")
            copy[name], size = _copied(item, depth - 1)
            total += size + len(name) + 5
        return copy, total
    raise ValueError(f"headers are plain data, not {type(value).__name__}")
