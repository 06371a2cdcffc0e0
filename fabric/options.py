"""What a call or a stream may say besides whom and what it asks."""

from __future__ import annotations

from typing import Any, TypedDict

from fabric.wire.message import Priority


class CallOptions(TypedDict, total=False):
    """All may be left out.

    Attributes:
        timeout: seconds for everything, attempts and pauses included; by default what the method declares, else the policy,
            else ``settings.call_timeout``. Inside a handler it never passes the deadline of the call being answered.
        priority: what goes first, in the sender's queue, on the broker and at the callee.
        idempotent: whether it may run twice; by default what the method declares.
        headers: plain data that travels along.
        instance: only this one.
        key: calls with the same one go to the same instance, as long as it is there and well.
    """

    timeout: float | None
    priority: Priority
    idempotent: bool | None
    headers: dict[str, Any] | None
    instance: str | None
    key: str | None


class StreamOptions(CallOptions, total=False):
    """Of a stream.

    Attributes:
        window: parts that may be on the way or unread, by default 64. More is faster over a long way; with large parts it costs
            memory.
    """

    window: int
