"""Messages to bytes and back: msgpack between Python services, JSON for other languages. Never pickle.

What comes from the network is hostile until checked: its size, depth, map length and the type of each field. Anything that
is not a message raises :class:`~fabric.errors.InvalidMessage` and nothing else.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import pathlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import orjson

from fabric.errors import ConfigurationError, InvalidMessage, PayloadTooLarge
from fabric.wire.message import Fields, JsonMessage, MessageType, Priority, ServiceMessage

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused unread.

    Attributes:
        message_bytes: of one message. More uses memory on both sides; large answers are better streamed.
        depth: of nested maps and lists in a payload.
        items: entries of one map or list; a message itself has 14.
    """

    message_bytes: int = 8 * 1024 * 1024
    depth: int = 64
    items: int = 1_000_000

    def __post_init__(self) -> None:
        if min(self.message_bytes, self.depth) < 1 or self.items < len(ServiceMessage._fields):
            raise ConfigurationError(f"not limits that let a message through: {self}")


DEFAULT_LIMITS: Final = Limits()

_CONTAINERS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_WORTH_COUNTING: Final = 1024
_FEW: Final = 8
_NESTING: Final = frozenset({dict, list, tuple, set, frozenset})
_TEXT: Final = frozenset({str})
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
        case int():
            raise TypeError("a number of more than 64 bits can't be sent; use text or a Decimal")
        case bytes() | bytearray() | memoryview():
            raise TypeError("bytes can't be sent in JSON; use msgpack, or text in base64")
        case _:
            raise TypeError(f"a {type(value).__name__} can't be sent; use plain data, a pydantic model or a dataclass")


_pack = msgpack.Packer(default=plain_value, autoreset=True).pack
_unpack: Final = msgpack.unpackb
_ERROR: Final = ServiceMessage._fields.index("error")
_HEADERS: Final = ServiceMessage._fields.index("headers")


def encode(message: ServiceMessage | Fields, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The message, or its fields, as msgpack: an array of them in order. ``decode`` takes what it returns if the payload is plain
    data.

    Raises:
        PayloadTooLarge: over ``limits.message_bytes``.
        InvalidMessage: the payload has something that can't be sent.
    """
    try:
        data: bytes = _pack(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidMessage(str(error)) from error
    if len(data) > limits.message_bytes or message[_ERROR] or message[_HEADERS]:
        _check_sent(message, data, limits)
    return data


def encode_row(row: tuple[Any, ...], besides: int, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """What of a message differs from others, as msgpack; see ``rows``.

    Args:
        besides: bytes at least that the rest of the message has. A message may come to travel alone, and is not larger then
            than it may be.

    Raises: as ``encode``.
    """
    try:
        data: bytes = _pack(row)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidMessage(str(error)) from error
    if len(data) + besides > limits.message_bytes:
        raise PayloadTooLarge(len(data) + besides, limits.message_bytes)
    return data


def check_extras(error: Any, headers: Any, limits: Limits = DEFAULT_LIMITS) -> None:
    """
    Raises:
        InvalidMessage: their shape is beyond the limits.
    """
    _check_shape((error, headers), limits)


def encode_json(message: ServiceMessage, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The message as a JSON object. Fields that have their default are left out. Bytes, NaN and infinity can't be sent in JSON.

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
        raise InvalidMessage(str(error.__cause__ or error)) from error
    _check_sent(message, data, limits)
    if b"null" in data and not _is_finite((message.payload, message.error, message.headers)):
        raise InvalidMessage("NaN and infinity can't be sent in JSON")
    return data


def encode_answer(to: ServiceMessage, message: ServiceMessage | Fields, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """``message``, or one of these fields, in the form that ``to``, which it answers, came in.

    Raises: as ``encode``.
    """
    return encode_json(ServiceMessage._make(message), limits) if type(to) is JsonMessage else encode(message, limits)


def type_of(data: bytes) -> str:
    """The content type of an encoded message: a JSON object and a msgpack array differ in their first byte."""
    return JSON if data[:1] == b"{" else MSGPACK


def _check_sent(message: ServiceMessage | Fields, data: bytes, limits: Limits) -> None:
    """A receiver could not even say to whom it refuses a message, so the sender has to learn it here."""
    if len(data) > limits.message_bytes:
        raise PayloadTooLarge(len(data), limits.message_bytes)
    if message[_ERROR] or message[_HEADERS]:
        _check_shape((message[_ERROR], message[_HEADERS]), limits)


def _is_finite(value: Any) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, value.values()))
        case list() | tuple() | set() | frozenset():
            return all(map(_is_finite, value))
        case _:
            return True


def decode(data: bytes, content_type: str = MSGPACK, limits: Limits = DEFAULT_LIMITS) -> ServiceMessage:
    """One message from bytes.

    Raises:
        InvalidMessage: for any bytes that are not one whole valid message within the limits.
    """
    if content_type == MSGPACK:
        return _read(data, limits)
    if len(data) > limits.message_bytes:
        raise InvalidMessage(f"{len(data)} bytes, over the limit of {limits.message_bytes}")
    if content_type.partition(";")[0].strip().lower() == JSON:
        return JsonMessage._make(_checked(_json_fields(data, limits), b"", limits))
    raise InvalidMessage(f"unknown content type {content_type[:60]!r}")


def decode_all(
    bodies: Sequence[bytes], content_type: str = MSGPACK, limits: Limits = DEFAULT_LIMITS
) -> list[ServiceMessage | InvalidMessage]:
    """Each as ``decode`` reads it; in place of one that it refuses, the error."""
    read: list[ServiceMessage | InvalidMessage] = []
    for data in bodies:
        try:
            read.append(_read(data, limits) if content_type == MSGPACK else decode(data, content_type, limits))
        except InvalidMessage as error:
            read.append(error)
    return read


def _read(data: bytes, limits: Limits) -> ServiceMessage:
    """A message from msgpack: without ext types, and within the limits."""
    if len(data) > limits.message_bytes:
        raise InvalidMessage(f"{len(data)} bytes, over the limit of {limits.message_bytes}")
    fields = unpack(data, limits)
    if type(fields) is not list or len(fields) < 6:
        raise InvalidMessage("not an array of at least six fields")
    return _new(ServiceMessage, _checked(fields, data, limits))


def unpack(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Any value from msgpack, without ext types. Its depth and keys are not checked yet.

    Raises:
        InvalidMessage: it is none, or a part of it has more entries than ``limits.items``.
    """
    try:
        # An array or map can't have more entries than there are bytes, so what it claims never costs more than it sent.
        if len(data) <= limits.items:
            return _unpack(data, ext_hook=_no_ext, max_ext_len=0)
        return _unpack(data, ext_hook=_no_ext, max_ext_len=0, max_array_len=limits.items, max_map_len=limits.items)
    except InvalidMessage:
        raise
    except Exception as error:  # msgpack raises a dozen kinds, down to bare ValueError and RecursionError
        raise InvalidMessage(f"not msgpack: {type(error).__name__}: {str(error)[:100]}") from error


def assemble(fields: list[Any], limits: Limits = DEFAULT_LIMITS) -> ServiceMessage:
    """A message of fields that were unpacked, all of them and in order.

    Raises:
        InvalidMessage: they are no message within the limits.
    """
    _, _, _, _, _, _, payload, _, _, _, _, _, error, headers = fields
    if error or headers or not is_flat(payload):
        _check_shape(fields, limits)
    return _new(ServiceMessage, _checked(fields, b"", limits))


def is_flat(value: Any) -> bool:
    """Whether it can't be over a limit: plain, or a map of a few such values by text, as most payloads are."""
    if type(value) not in _NESTING:
        return True
    if type(value) is not dict or len(value) > _FEW:
        return False
    for key, item in value.items():  # noqa: SIM110  a generator takes three times as long
        if type(key) is not str or type(item) in _NESTING:
            return False
    return True


def _may_break(data: bytes, limits: Limits) -> bool:
    """Whether the shape of what these bytes hold may be beyond the limits. A value nested n deep has n bytes that begin a
    container, and a key that is not text begins with one of three others: counting bytes is cheaper than walking, as long as
    there are few."""
    size = len(data)
    return (
        size > _WORTH_COUNTING
        or 0xC4 in data
        or 0xC5 in data
        or 0xC6 in data
        or size - len(data.translate(None, _CONTAINERS)) > limits.depth
    )


def _no_ext(code: int, data: bytes) -> Any:
    raise InvalidMessage(f"msgpack ext type {code}")


def _json_fields(data: bytes, limits: Limits) -> list[Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"not JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise InvalidMessage("not a JSON object")
    _check_shape(value, limits)
    missing = [name for name in _NAMES[:6] if name not in value]
    if missing:
        raise InvalidMessage(f"no {', '.join(missing)}")
    defaults = ServiceMessage._field_defaults
    return [value.get(name, defaults.get(field)) for name, field in zip(_NAMES, ServiceMessage._fields, strict=True)]


def _check_shape(value: Any, limits: Limits) -> None:
    """Depth, entries and keys, level by level: recursion is what a hostile value would exhaust."""
    level = [value] if type(value) in _NESTING else []
    for _ in range(limits.depth + 1):
        below: list[Any] = []
        for item in level:
            if len(item) > limits.items:
                raise InvalidMessage(f"{len(item)} entries, over the limit of {limits.items}")
            children = item
            if type(item) is dict:
                if not _TEXT.issuperset(map(type, item)) and not all(isinstance(key, str) for key in item):
                    raise InvalidMessage("a map has a key that is not text")
                children = item.values()
            if not _NESTING.isdisjoint(map(type, children)):
                below.extend(child for child in children if type(child) in _NESTING)
        if not below:
            return
        level = below
    raise InvalidMessage(f"nested deeper than {limits.depth}")


_WIDTH: Final = len(ServiceMessage._fields)
_DEFAULTS: Final = tuple(ServiceMessage._field_defaults.get(name) for name in ServiceMessage._fields)
_SECONDS: Final = (int, float)
_new: Final = tuple.__new__


def _checked(fields: list[Any], data: bytes, limits: Limits) -> Fields:
    """The fields of a message, which were read from ``data`` as msgpack; of those from JSON the shape is checked before."""
    if len(fields) != _WIDTH:  # from an older or a newer Fabric
        fields = [*fields[:_WIDTH], *_DEFAULTS[len(fields) :]]
    id, number, source, instance, to, method, payload, rank, correlation, deadline, attempt, reply_to, error, headers = fields
    # Written out, because every message comes through here; a loop over a table of checks takes three times as long.
    if not (
        type(id) is type(source) is type(instance) is type(to) is type(method) is str
        and (correlation is None or type(correlation) is str)
        and (deadline is None or (type(deadline) in _SECONDS and -1e12 < deadline < 1e12))  # also refuses NaN
        and type(attempt) is int
        and 0 < attempt < 2**31
        and (reply_to is None or type(reply_to) is str)
        and (error is None or type(error) is dict)
        and (headers is None or type(headers) is dict)
    ):
        raise InvalidMessage(_misfit(fields))
    try:
        kind, priority = _TYPES[number], _PRIORITIES[rank]
    except (KeyError, TypeError):
        shown = ", ".join(str(item) if type(item) is int else type(item).__name__ for item in (number, rank))
        raise InvalidMessage(f"unknown type or priority: {shown}") from None
    if (error or headers or not is_flat(payload)) and _may_break(data, limits):
        _check_shape(fields, limits)
    return id, kind, source, instance, to, method, payload, priority, correlation, deadline, attempt, reply_to, error, headers


def _misfit(fields: list[Any]) -> str:
    """Which field of a refused message is wrong."""
    given = dict(zip(_NAMES, fields, strict=True))
    for name in ("id", "from", "instance", "to", "method"):
        if type(given[name]) is not str:
            return f"{name} is not text"
    for name in ("correlation_id", "reply_to"):
        if given[name] is not None and type(given[name]) is not str:
            return f"{name} is not text or nothing"
    for name in ("error", "headers"):
        if given[name] is not None and type(given[name]) is not dict:
            return f"{name} is not a map or nothing"
    if type(given["attempt"]) is not int or not 1 <= given["attempt"] < 2**31:
        return "attempt is not a positive number"
    return "deadline is not a time or nothing"
