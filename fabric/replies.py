"""Answers on their way back: together when they are ready together, and held while the link is down."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from fabric.errors import FabricError
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority

_log = logging.getLogger("fabric.replies")

AGAIN = 0.05
"""Seconds before what the transport had no room for is offered to it again."""
MOST_HELD = 64 * 1024 * 1024
"""Bytes held for a link that is down; then the oldest are dropped."""


class Replies:
    """Posts encoded answers without waiting. What the link can't take now is kept until its deadline.

    Args:
        exchange: where the addresses are bound.
        max_batch_bytes: of one body.
    """

    def __init__(self, transport: Transport, exchange: str, *, max_batch_bytes: int) -> None:
        self._transport, self._exchange = transport, exchange
        self._max_batch = min(max_batch_bytes, transport.max_body)
        self._ready: dict[tuple[str, Priority], list[tuple[bytes, float]]] = {}
        self._held: deque[tuple[str, Priority, bytes, float]] = deque()
        self._held_bytes = 0
        self._again: asyncio.TimerHandle | None = None
        self._unwatch = transport.watch(self._link_changed)
        self.dropped = 0

    def add(self, address: str, priority: Priority, data: bytes, deadline: float) -> None:
        """Send ``data`` with whatever else is ready for there in this turn of the loop.

        Args:
            deadline: in the loop's time; after it nobody waits for it.
        """
        waiting = self._ready.get((address, priority))
        if waiting is None:
            self._ready[address, priority] = [(data, deadline)]
            asyncio.get_running_loop().call_soon(self._flush, address, priority)
        else:
            waiting.append((data, deadline))

    def flush(self) -> None:
        """Hand everything over now, as far as the link takes it."""
        self._release()
        for address, priority in list(self._ready):
            self._flush(address, priority)

    def _flush(self, address: str, priority: Priority) -> None:
        waiting = self._ready.pop((address, priority), None)
        if not waiting:
            return
        if len(waiting) == 1:
            self._post(address, priority, waiting)
            return
        start = 0
        while start < len(waiting):
            end, size = start, batch.OVERHEAD
            while end < len(waiting) and (end == start or size + len(waiting[end][0]) + batch.OVERHEAD <= self._max_batch):
                size += len(waiting[end][0]) + batch.OVERHEAD
                end += 1
            self._post(address, priority, waiting[start:end])
            start = end

    def _post(self, address: str, priority: Priority, answers: list[tuple[bytes, float]]) -> None:
        if len(answers) == 1:
            body, content_type = answers[0][0], MSGPACK
        else:
            body, content_type = batch.join([data for data, _ in answers]), batch.BATCH
        try:
            if self._transport.post(self._exchange, address, body, priority=priority, content_type=content_type):
                return
        except (FabricError, ValueError) as error:
            # Closed, or an address that can't be one: holding the answers back would not help.
            self.dropped += len(answers)
            _log.warning("dropped %d answers to %.100s: %s", len(answers), address, error)
            return
        for data, deadline in answers:
            self._held.append((address, priority, data, deadline))
            self._held_bytes += len(data)
        while self._held_bytes > MOST_HELD:
            self._held_bytes -= len(self._held.popleft()[2])
            self.dropped += 1
        if self._again is None and self._transport.state is LinkState.READY:
            self._again = asyncio.get_running_loop().call_later(AGAIN, self._release)

    def _release(self) -> None:
        """What was held is ready again, unless nobody waits for it any more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        now = asyncio.get_running_loop().time()
        held, self._held, self._held_bytes = self._held, deque(), 0
        for address, priority, data, deadline in held:
            if deadline > now:
                self.add(address, priority, data, deadline)
            else:
                self.dropped += 1

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and self._held:
            self.flush()

    def close(self) -> None:
        """Hand over what is left."""
        self.flush()
        self._unwatch()
        if self._again is not None:
            self._again.cancel()
        self.dropped += len(self._held)
        self._held.clear()
