"""Requests to one instance, or answers to one caller, that travel together: a head with what they share, and below it a row each.

The body is a msgpack array: the head, then the rows, at most ``MOST_ROWS``. Whole messages side by side take twice as long to
make and to read, for of their fourteen fields ten are the same in all of them.

========  ====================================================================================
head      type (request or response), from, instance, to, priority, reply_to; of answers also
          the load of the instance
request   id, method, payload, deadline; and, unless they are 1 and nothing, attempt, headers
response  correlation_id, payload; and, where it has more to say, type, attempt, error, headers
========  ====================================================================================

A damaged row spoils only itself, as long as it can be told where it ends.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgpack

from fabric.errors import InvalidMessage
from fabric.wire.codec import DEFAULT_LIMITS, Limits, assemble, is_flat, unpack
from fabric.wire.message import MessageType, Priority, ServiceMessage

ROWS: Final = "application/vnd.fabric.rows+msgpack"
MOST_ROWS: Final = 1024
OVERHEAD: Final = 5
"""Bytes that a body has besides its head and its rows, at most."""

_WIDTH: Final = 6
_LEAVES: Final = frozenset({str, int, float, bool, type(None), bytes})
_REQUEST, _RESPONSE = MessageType.REQUEST, MessageType.RESPONSE
_begin: Final = struct.Struct(">BI").pack
_ARRAY: Final = 0xDD
_pack: Final = msgpack.Packer(autoreset=True).pack
_new: Final = tuple.__new__


def head(
    kind: MessageType,
    source: str,
    instance: str,
    to: str,
    priority: Priority,
    reply_to: str | None = None,
    load: int | None = None,
) -> bytes:
    """What requests or answers have in common, encoded."""
    shared = kind, source, instance, to, priority, reply_to
    data: bytes = _pack(shared if load is None else (*shared, load))
    return data


def join(head: bytes, rows: Sequence[bytes]) -> bytes:
    """Rows as ``codec.encode_row`` makes them, below their head, as one body of content type ``ROWS``."""
    return b"".join((_begin(_ARRAY, len(rows) + 1), head, *rows))


def read(body: bytes, limits: Limits = DEFAULT_LIMITS) -> list[ServiceMessage | InvalidMessage]:
    """Each message of a body in order, or for a damaged one the error."""
    try:
        common, _, rows = _parts(body, limits)
    except InvalidMessage as error:
        return [error]
    if common.type is _REQUEST:
        return _requests(common, rows, limits)
    return [_answer(row, common, limits) for row in rows]


class Answers(NamedTuple):
    """What came to a caller in one body.

    Attributes:
        plain: of answers with nothing more to say the id of the request and the payload.
        others: everything else, or for what is damaged the error.
        load: requests that ran and waited in the instance; None where it does not say.
    """

    plain: list[list[Any]]
    others: list[ServiceMessage | InvalidMessage]
    load: int | None = None


def answers(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Answers:
    """What ``read`` returns, sorted, without making messages of what is not looked at."""
    try:
        common, load, rows = _parts(body, limits)
    except InvalidMessage as error:
        return Answers([], [error])
    if common.type is _REQUEST:
        return Answers([], _requests(common, rows, limits))
    plain: list[list[Any]] = []
    others: list[ServiceMessage | InvalidMessage] = []
    for row in rows:
        if type(row) is list and len(row) == 2:
            id, payload = row
            if type(id) is str and (type(payload) in _LEAVES or is_flat(payload)):
                plain.append(row)
                continue
        others.append(_answer(row, common, limits))
    return Answers(plain, others, load)


def _parts(body: bytes, limits: Limits) -> tuple[ServiceMessage, int | None, list[Any]]:
    """A message with what they share, the load, and the rows.

    Raises:
        InvalidMessage: it is no such body.
    """
    size = len(body)
    # What can't be over a limit of its own is read in one step; the rest, and what has a damaged row, one by one.
    whole = None
    if size <= limits.message_bytes and size <= limits.items:
        with suppress(InvalidMessage):
            whole = unpack(body, limits)
    if whole is None:
        top, rows = _one_by_one(body, limits)
    elif type(whole) is not list or not whole:
        raise InvalidMessage("not rows")
    else:
        top, *rows = whole
    if len(rows) > MOST_ROWS:
        raise InvalidMessage(f"{len(rows)} rows in one body, and {MOST_ROWS} are allowed")
    if type(top) is not list or not _WIDTH <= len(top) <= _WIDTH + 1:
        raise InvalidMessage("not the head of rows")
    number, source, instance, to, rank, reply_to, *rest = top
    # Checked with the head's own values once, so that each row needs only its own looked at.
    common = assemble(["", number, source, instance, to, "", None, rank, None, None, 1, reply_to, None, None], limits)
    if common.type is not _REQUEST and common.type is not _RESPONSE:
        raise InvalidMessage(f"rows of {common.type.name.lower()} messages")
    return common, rest[0] if rest and type(rest[0]) is int else None, rows


def _one_by_one(body: bytes, limits: Limits) -> tuple[Any, list[Any]]:
    """The head, and each row or why it can't be read."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(body)))
    unpacker.feed(body)
    parts = []
    try:
        count = unpacker.read_array_header()
        if count > MOST_ROWS + 1:
            raise InvalidMessage(f"{count - 1} rows in one body, and {MOST_ROWS} are allowed")
        for _ in range(count):
            begin = unpacker.tell()
            unpacker.skip()
            parts.append(body[begin : unpacker.tell()])
    except InvalidMessage:
        raise
    except Exception as error:  # msgpack raises a dozen kinds
        raise InvalidMessage(f"not rows: {type(error).__name__}: {str(error)[:100]}") from error
    if not parts or unpacker.tell() != len(body):
        raise InvalidMessage("not rows: something else is in the body")
    rows: list[Any] = []
    for part in parts[1:]:
        try:
            rows.append(_part(part, limits))
        except InvalidMessage as error:
            rows.append(error)
    return _part(parts[0], limits), rows


def _part(data: bytes, limits: Limits) -> Any:
    """A head or a row, of which none may be larger than a message."""
    if len(data) > limits.message_bytes:
        raise InvalidMessage(f"{len(data)} bytes, over the limit of {limits.message_bytes}")
    return unpack(data, limits)


def _requests(common: ServiceMessage, rows: list[Any], limits: Limits) -> list[ServiceMessage | InvalidMessage]:
    _, kind, source, instance, to, _, _, priority, _, _, _, reply_to, _, _ = common
    found: list[ServiceMessage | InvalidMessage] = []
    for row in rows:
        if type(row) is list and len(row) == 4:
            id, method, payload, deadline = row
            if type(id) is type(method) is str and type(deadline) is float and -1e12 < deadline < 1e12 and is_flat(payload):
                fields = id, kind, source, instance, to, method, payload, priority, None, deadline, 1, reply_to, None, None
                found.append(_new(ServiceMessage, fields))
                continue
        found.append(_request(row, common, limits))
    return found


def _request(row: Any, common: ServiceMessage, limits: Limits) -> ServiceMessage | InvalidMessage:
    """Any row below the head of requests."""
    if isinstance(row, InvalidMessage):
        return row
    if type(row) is not list or len(row) not in (4, 6):
        return InvalidMessage("not the row of a request")
    id, method, payload, deadline, attempt, headers = row if len(row) == 6 else (*row, 1, None)
    return _assembled(common, id, common.type, method, payload, None, deadline, attempt, None, headers, limits)


def _answer(row: Any, common: ServiceMessage, limits: Limits) -> ServiceMessage | InvalidMessage:
    """Any row below the head of answers."""
    if isinstance(row, InvalidMessage):
        return row
    if type(row) is not list or len(row) not in (2, 6):
        return InvalidMessage("not the row of an answer")
    id, payload, number, attempt, error, headers = row if len(row) == 6 else (*row, common.type, 1, None, None)
    return _assembled(common, id, number, "", payload, id, None, attempt, error, headers, limits)


def _assembled(
    common: ServiceMessage,
    id: Any,
    number: Any,
    method: Any,
    payload: Any,
    correlation: Any,
    deadline: Any,
    attempt: Any,
    error: Any,
    headers: Any,
    limits: Limits,
) -> ServiceMessage | InvalidMessage:
    _, _, source, instance, to, _, _, priority, _, _, _, reply_to, _, _ = common
    fields = [
        id, number, source, instance, to, method, payload, priority, correlation, deadline, attempt, reply_to, error, headers
    ]  # fmt: skip
    try:
        return assemble(fields, limits)
    except InvalidMessage as refused:
        return refused
