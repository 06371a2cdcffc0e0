"""What a handler knows of the call that it answers. Follows the task, so nested calls inherit the deadline."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fabric.wire.message import Priority


class CallContext(NamedTuple):
    """The request or event under way.

    Attributes:
        id: of the message.
        source, instance: who sent it.
        method: the method or the event's topic.
        deadline: seconds since 1970, or None for events.
        attempt: from 1; an event's counts its deliveries.
        priority: of the request; nested calls have their own.
        user: who published it, as the broker vouches for it; None where it does not.
        headers: what the sender added.
    """

    id: str
    source: str
    instance: str
    method: str
    deadline: float | None
    attempt: int
    priority: Priority
    user: str | None = None
    headers: Mapping[str, Any] = MappingProxyType({})


class Answered(Protocol):
    """What can say what it is the call of: that is seldom asked, and would cost each request more than its bookkeeping."""

    def context(self) -> CallContext: ...


_current: ContextVar[CallContext | Answered | None] = ContextVar("fabric_call", default=None)

enter = _current.set
"""Make it the current one of this task and of those that it starts."""


answering = _current.get
"""None outside a handler."""


def current_call() -> CallContext | None:
    """The call that this task answers, or None outside a handler."""
    found = _current.get()
    return found if found is None or isinstance(found, CallContext) else found.context()


def leave(place: Token[CallContext | Answered | None]) -> None:
    """What was current before ``enter`` is again."""
    try:
        _current.reset(place)
    except ValueError:  # a task that the loop abandons at its end is closed from outside its context
        return
