"""When a broker takes no more publishes."""

from __future__ import annotations

from collections.abc import Callable

OPERATOR, MEMORY = "raised by the operator", "too many bytes are held"
_CLEARS_AT = 0.8


class Alarm:
    """On while an operator or the bytes held say so. As in RabbitMQ, it stops publishers before memory runs out.

    Args:
        limit: bytes of messages held at which it goes on; it goes off at four fifths of that.
        changed: called with each change; "" is off.
    """

    def __init__(self, limit: int, changed: Callable[[str], None]) -> None:
        self.limit = limit
        self.held = 0
        self._changed = changed
        self._reasons: dict[str, None] = {}

    @property
    def reason(self) -> str:
        """Why it is on; "" when it is off."""
        return " and ".join(self._reasons)

    def hold(self, size: int) -> None:
        self.held += size
        if self.held > self.limit and MEMORY not in self._reasons:
            self.raise_for(MEMORY)

    def release(self, size: int) -> None:
        self.held -= size
        if self._reasons and MEMORY in self._reasons and self.held <= self.limit * _CLEARS_AT:
            self.clear_for(MEMORY)

    def raise_for(self, reason: str) -> None:
        """Idempotent."""
        if reason not in self._reasons:
            self._reasons[reason] = None
            self._changed(self.reason)

    def clear_for(self, reason: str) -> None:
        """Idempotent."""
        if reason in self._reasons:
            del self._reasons[reason]
            self._changed(self.reason)
