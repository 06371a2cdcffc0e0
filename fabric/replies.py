"""Answers on their way back: together when they are ready together, and held while the link is down."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from fabric.config import Settings
from fabric.errors import FabricError, InvalidMessage, PayloadTooLarge
from fabric.identity import Identity
from fabric.routing import outcomes
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.wire import batch, codec
from fabric.wire.codec import type_of
from fabric.wire.message import MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.replies")

AGAIN = 0.05
"""Seconds before what the transport had no room for is offered to it again."""
MOST_HELD = 64 * 1024 * 1024
"""Bytes held for a link that is down; then the oldest are dropped."""
_RESPONSE: Final = MessageType.RESPONSE
_JSON_BEGINS: Final = ord("{")
TELL_LOAD_EVERY = 8
"""Answers, of which one says how busy the instance is: often enough to balance by, seldom enough to cost nothing."""


class Replies:
    """Posts answers without waiting, those to one caller in order. What the link can't take now is kept until its deadline.

    Args:
        exchange: where the addresses are bound.
        service: that answers.
    """

    def __init__(
        self,
        transport: Transport,
        exchange: str,
        me: Identity,
        service: str,
        settings: Settings,
    ) -> None:
        self._transport, self._exchange = transport, exchange
        self._service, self._instance, self._ids = service, me.instance, me.ids
        self._limits = codec.Limits(message_bytes=min(settings.max_message_bytes, transport.max_body))
        self._max_batch = min(settings.max_batch_bytes, transport.max_body)
        self._ready: dict[tuple[str, Priority], list[tuple[bytes, float]]] = {}
        self._held: deque[tuple[str, Priority, bytes, float]] = deque()
        self._held_bytes = self._sent = 0
        self._again: asyncio.TimerHandle | None = None
        self._unwatch = transport.watch(self._link_changed)
        self.dropped = 0

    def answer(
        self, to: ServiceMessage, deadline: float, load: int, payload: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        """End a request, with whatever can be sent of the answer. Does nothing for one that nobody can be answered to.

        Args:
            deadline: in the loop's time; after it nobody waits for it.
            load: requests running and waiting here.
        """
        self._sent += 1
        headers = None if self._sent % TELL_LOAD_EVERY else {"load": load}
        try:
            self.send(to, _RESPONSE, deadline, payload, error, to.attempt, headers)
        except (PayloadTooLarge, InvalidMessage) as problem:
            self.send(to, _RESPONSE, deadline, None, outcomes.failed(problem), to.attempt)

    def send(
        self,
        to: ServiceMessage,
        kind: MessageType,
        deadline: float,
        payload: Any = None,
        error: dict[str, Any] | None = None,
        number: int = 1,
        headers: dict[str, Any] | None = None,
    ) -> None:
        """Send a message of any type about a request to whoever sent it.

        Args:
            number: of the attempt, or of a part in its stream.

        Raises:
            PayloadTooLarge, InvalidMessage: it can't be sent.
        """
        id, _, source, _, _, method, _, priority, _, _, _, address, _, _ = to
        if address is None:
            return
        fields = (
            self._ids.next(),
            kind,
            self._service,
            self._instance,
            source,
            method,
            payload,
            priority,
            id,
            None,
            number,
            None,
            error,
            headers,
        )
        native = type(to) is ServiceMessage
        data = codec.encode(fields, self._limits) if native else codec.encode_answer(to, fields, self._limits)
        self._add(address, priority, data, deadline)

    def flush(self) -> None:
        """Hand everything over now, as far as the link takes it."""
        self._release()
        for address, priority in list(self._ready):
            self._flush(address, priority)

    def close(self) -> None:
        """Hand over what is left."""
        self.flush()
        self._unwatch()
        if self._again is not None:
            self._again.cancel()
        self.dropped += len(self._held)
        self._held.clear()

    def _add(self, address: str, priority: Priority, data: bytes, deadline: float) -> None:
        if self._held:  # it must not overtake those
            self._hold(address, priority, data, deadline)
            return
        waiting = self._ready.get((address, priority))
        if waiting is None:
            self._ready[address, priority] = [(data, deadline)]
            asyncio.get_running_loop().call_soon(self._flush, address, priority)
        else:
            waiting.append((data, deadline))

    def _flush(self, address: str, priority: Priority) -> None:
        waiting = self._ready.pop((address, priority), None)
        if not waiting:
            return
        answers = [data for data, _ in waiting]
        if len(answers) == 1 or _JSON_BEGINS in {data[0] for data in answers}:
            for answer in waiting:
                self._post(address, priority, [answer])
        elif sum(map(len, answers)) + (len(answers) + 1) * batch.OVERHEAD <= self._max_batch:
            self._post(address, priority, waiting)
        else:
            for part in self._parted(waiting):
                self._post(address, priority, part)

    def _parted(self, waiting: list[tuple[bytes, float]]) -> Iterator[list[tuple[bytes, float]]]:
        """As few batches as hold them all, in order."""
        start = 0
        while start < len(waiting):
            end, size = start, batch.OVERHEAD
            while end < len(waiting) and (end == start or size + len(waiting[end][0]) + batch.OVERHEAD <= self._max_batch):
                size += len(waiting[end][0]) + batch.OVERHEAD
                end += 1
            yield waiting[start:end]
            start = end

    def _post(self, address: str, priority: Priority, answers: list[tuple[bytes, float]]) -> None:
        if len(answers) == 1:
            body, content_type = answers[0][0], type_of(answers[0][0])
        else:
            body, content_type = batch.join([data for data, _ in answers]), batch.BATCH
        try:
            if not self._held and self._transport.post(
                self._exchange, address, body, priority=priority, content_type=content_type
            ):
                return
        except (FabricError, ValueError) as error:
            # Closed, or an address that can't be one: holding the answers back would not help.
            self.dropped += len(answers)
            _log.warning("dropped %d answers to %.100s: %s", len(answers), address, error)
            return
        for data, deadline in answers:
            self._hold(address, priority, data, deadline)

    def _hold(self, address: str, priority: Priority, data: bytes, deadline: float) -> None:
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
                self._add(address, priority, data, deadline)
            else:
                self.dropped += 1

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and self._held:
            self.flush()
