"""What a handler knows of the call that it answers. Follows the task, so nested calls inherit the deadline."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from fabric.wire.message import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
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
    headers: Mapping[str, Any] = field(default_factory=dict)


_current: ContextVar[CallContext | None] = ContextVar("fabric_call", default=None)


def current_call() -> CallContext | None:
    """The call that this task answers, or None outside a handler."""
    return _current.get()


def enter(context: CallContext) -> None:
    """Make it the current one of this task and of those that it starts."""
    _current.set(context)
