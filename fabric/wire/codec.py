"""Messages to bytes and back: msgpack between Python services, JSON for other languages. Never pickle.

What comes from the network is hostile until checked: its size, depth, map length and the type of each field. Anything that
is not a message raises :class:`~fabric.errors.InvalidMessage` and nothing else.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import orjson

from fabric.errors import InvalidMessage, PayloadTooLarge
from fabric.wire.message import MessageType, Priority, ServiceMessage

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused unread.

    Attributes:
        message_bytes: of one message. More uses memory on both sides; large answers are better streamed.
        depth: of nested maps and lists in a payload.
        items: entries of one map or list.
    """

    message_bytes: int = 8 * 1024 * 1024
    depth: int = 64
    items: int = 1_000_000

    def __post_init__(self) -> None:
        if min(self.message_bytes, self.depth, self.items) < 1:
            raise ValueError("limits must be positive")


DEFAULT_LIMITS: Final = Limits()

_CONTAINERS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_TYPES: Final = {int(item): item for item in MessageType}
_PRIORITIES: Final = {int(item): item for item in Priority}
_NAMES: Final = tuple("from" if name == "source" else name for name in ServiceMessage._fields)


def plain_value(value: Any) -> Any:
    """The wire form of a value that msgpack and JSON have no type for; pydantic reads each back from it."""
    match value:
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case uuid.UUID() | decimal.Decimal() | pathlib.PurePath():
            return str(value)
        case enum.Enum():
            return value.value
        case set() | frozenset():
            return list(value)
        case tuple():
            return list(value)
        case _:
            raise TypeError(f"a {type(value).__name__} can't be sent; use plain data, a pydantic model or a dataclass")


_pack = msgpack.Packer(default=plain_value, autoreset=True).pack


def encode(message: ServiceMessage, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The message as msgpack: an array of its fields in order.

    Raises:
        PayloadTooLarge: over ``limits.message_bytes``.
        InvalidMessage: the payload has something that can't be sent.
    """
    try:
        data: bytes = _pack(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidMessage(str(error)) from error
    if len(data) > limits.message_bytes:
        raise PayloadTooLarge(len(data), limits.message_bytes)
    return data


def encode_json(message: ServiceMessage, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The message as a JSON object. Fields that have their default are left out. Bytes can't be sent in JSON.

    Raises: as ``encode``.
    """
    defaults = ServiceMessage._field_defaults
    fields = {
        name: value
        for name, field, value in zip(_NAMES, ServiceMessage._fields, message, strict=True)
        if field not in defaults or value != defaults[field]
    }
    try:
        data = orjson.dumps(fields, default=plain_value)
    except TypeError as error:
        raise InvalidMessage(str(error)) from error
    if len(data) > limits.message_bytes:
        raise PayloadTooLarge(len(data), limits.message_bytes)
    return data


def decode(data: bytes, content_type: str = MSGPACK, limits: Limits = DEFAULT_LIMITS) -> ServiceMessage:
    """One message from bytes.

    Raises:
        InvalidMessage: for any bytes that are not one whole valid message within the limits.
    """
    if len(data) > limits.message_bytes:
        raise InvalidMessage(f"{len(data)} bytes, over the limit of {limits.message_bytes}")
    if content_type == MSGPACK:
        fields = unpack(data, limits)
        if type(fields) is not list or len(fields) < 6:
            raise InvalidMessage("not an array of at least six fields")
        return _message(fields)
    if content_type == JSON:
        return _message(_json_fields(data, limits))
    raise InvalidMessage(f"unknown content type {content_type[:60]!r}")


def unpack(data: bytes, limits: Limits) -> Any:
    """One msgpack value without ext types, within the limits.

    Raises:
        InvalidMessage
    """
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            timestamp=0,
            ext_hook=_no_ext,
            max_ext_len=0,
            max_array_len=limits.items,
            max_map_len=limits.items,
        )
    except InvalidMessage:
        raise
    except Exception as error:  # msgpack raises a dozen kinds, down to bare ValueError and RecursionError
        raise InvalidMessage(f"not msgpack: {type(error).__name__}: {str(error)[:100]}") from error
    # A value nested n deep has n container bytes, so text and numbers seldom need the walk.
    if len(data) - len(data.translate(None, _CONTAINERS)) > limits.depth:
        _check_depth(value, limits.depth)
    return value


def _no_ext(code: int, data: bytes) -> Any:
    raise InvalidMessage(f"msgpack ext type {code}")


def _json_fields(data: bytes, limits: Limits) -> list[Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"not JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise InvalidMessage("not a JSON object")
    _check_depth(value, limits.depth)
    missing = [name for name in _NAMES[:6] if name not in value]
    if missing:
        raise InvalidMessage(f"no {', '.join(missing)}")
    defaults = ServiceMessage._field_defaults
    return [value.get(name, defaults.get(field)) for name, field in zip(_NAMES, ServiceMessage._fields, strict=True)]


def _check_depth(value: Any, limit: int) -> None:
    level: list[Any] = [value]
    for _ in range(limit + 1):
        level = [
            child
            for item in level
            if isinstance(item, (list, dict))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (list, dict))
        ]
        if not level:
            return
    raise InvalidMessage(f"nested deeper than {limit}")


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_optional_text(value: Any) -> bool:
    return value is None or type(value) is str


def _is_optional_map(value: Any) -> bool:
    return value is None or (type(value) is dict and all(type(key) is str for key in value))


_CHECKS: Final[tuple[tuple[int, Callable[[Any], bool], str], ...]] = (
    (0, _is_text, "text"),
    (2, _is_text, "text"),
    (3, _is_text, "text"),
    (4, _is_text, "text"),
    (5, _is_text, "text"),
    (8, _is_optional_text, "text or nothing"),
    (9, lambda value: value is None or type(value) in (int, float), "seconds or nothing"),
    (10, lambda value: type(value) is int and 1 <= value < 2**31, "a positive number"),
    (11, _is_optional_text, "text or nothing"),
    (12, _is_optional_map, "a map or nothing"),
    (13, _is_optional_map, "a map or nothing"),
)
_WIDTH: Final = len(ServiceMessage._fields)
_DEFAULTS: Final = tuple(ServiceMessage._field_defaults.get(name) for name in ServiceMessage._fields)


def _message(fields: list[Any]) -> ServiceMessage:
    if len(fields) != _WIDTH:  # from an older or a newer Fabric
        fields = [*fields[:_WIDTH], *_DEFAULTS[len(fields) :]]
    try:
        fields[1] = _TYPES[fields[1]]
        fields[7] = _PRIORITIES[fields[7]]
    except (KeyError, TypeError):
        raise InvalidMessage(f"unknown type or priority: {str(fields[1])[:20]}, {str(fields[7])[:20]}") from None
    for index, fits, wanted in _CHECKS:
        if not fits(fields[index]):
            raise InvalidMessage(f"{_NAMES[index]} is not {wanted}")
    deadline = fields[9]
    if deadline is not None and not -1e12 < deadline < 1e12:  # also refuses NaN
        raise InvalidMessage("deadline is not a time")
    return ServiceMessage._make(fields)
