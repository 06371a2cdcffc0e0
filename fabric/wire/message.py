"""The one message that everything is made of."""

from __future__ import annotations

import enum
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple


class MessageType(enum.IntEnum):
    """What a message is. The numbers are on the wire and never change."""

    REQUEST = 1
    RESPONSE = 2
    EVENT = 3
    BROADCAST = 4
    CANCEL = 5
    STREAM_ITEM = 6
    STREAM_END = 7
    STREAM_CREDIT = 8
    PROBE = 9


class Priority(enum.IntEnum):
    """What goes first. The numbers are on the wire and never change."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


class ServiceMessage(NamedTuple):
    """One request, response, event, broadcast, cancel or stream frame.

    A tuple, because it is made and read for every call: building one costs a third of a frozen dataclass, and msgpack
    packs it in one step. The order of the fields is the wire format; new ones are added at the end, with a default.

    Attributes:
        id: unique for this sending; a retry has a new one.
        type: what it is.
        source: the service that sent it (``from`` in JSON).
        instance: the instance that sent it.
        to: the service, capability or topic it is meant for.
        method: the method, or the event's name.
        payload: plain data: None, bool, int, float, str, bytes, list, dict with str keys.
        priority: what goes first.
        correlation_id: of a response, cancel or stream frame: the ``id`` of its request.
        deadline: seconds since 1970 after which nobody waits for it; None only for events and broadcasts.
        attempt: from 1, counted over all instances tried.
        reply_to: the address that answers go to.
        error: of a response that failed: ``{"kind", "message", ...}``; otherwise None.
        headers: str to plain data: trace context, idempotency key, load, and what users add.
    """

    id: str
    type: MessageType
    source: str
    instance: str
    to: str
    method: str
    payload: Any = None
    priority: Priority = Priority.NORMAL
    correlation_id: str | None = None
    deadline: float | None = None
    attempt: int = 1
    reply_to: str | None = None
    error: dict[str, Any] | None = None
    headers: dict[str, Any] | None = None


Fields = tuple[
    str,
    MessageType,
    str,
    str,
    str,
    str,
    Any,
    Priority,
    str | None,
    float | None,
    int,
    str | None,
    dict[str, Any] | None,
    dict[str, Any] | None,
]
"""Those of a ``ServiceMessage`` in their order, where a message is only made to be sent at once."""


class JsonMessage(ServiceMessage):
    """One that came as JSON. What answers it is JSON too, and alone in its body, so that its sender needs no msgpack."""

    __slots__ = ()


class MessageIds:
    """Ids that are unique between processes: 64 random bits, then a count. Several times faster than uuid4."""

    __slots__ = ("next",)

    def __init__(self, prefix: str | None = None) -> None:
        begin = prefix if prefix is not None else os.urandom(8).hex()
        # Without a step of ours: each call has one.
        self.next: Callable[[], str] = map(f"{begin.replace('%', '%%')}-%x".__mod__, itertools.count(1)).__next__
