"""What a service's subscription gave up, for people and services that care for it."""

from __future__ import annotations

from fabric.transports.base import DeadLetter, Transport


class DeadLetters:
    """The events that one service gave up."""

    def __init__(self, transport: Transport, queue: str) -> None:
        self._transport, self._queue = transport, queue

    async def list(self, *, limit: int = 100, timeout: float = 10.0) -> list[DeadLetter]:
        """The oldest ``limit``, left in place."""
        return await self._transport.dead_letters(self._queue, limit=limit, timeout=timeout)

    async def replay(self, id: str, *, timeout: float = 10.0) -> bool:
        """Deliver one again, with fresh attempts. False: it is not there."""
        return await self._transport.replay_dead_letter(self._queue, id, timeout=timeout)

    async def discard(self, id: str, *, timeout: float = 10.0) -> bool:
        """Remove one. False: it is not there."""
        return await self._transport.discard_dead_letter(self._queue, id, timeout=timeout)
