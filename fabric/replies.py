"""Answers on their way back: together when they are ready together, and held while the link is down."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from fabric.config import Settings
from fabric.errors import FabricError, InvalidMessage, PayloadTooLarge
from fabric.identity import Identity
from fabric.routing import outcomes
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.wire import codec, rows
from fabric.wire.message import JsonMessage, MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.replies")
_new: Final = tuple.__new__

AGAIN = 0.05
"""Seconds before what the transport had no room for is offered to it again."""
MOST_HELD = 64 * 1024 * 1024
"""Bytes held for a link that is down; then the oldest are dropped."""
_RESPONSE: Final = MessageType.RESPONSE
_FRAME: Final = 64
"""Bytes at most that an answer of its own has besides what its row and its head hold, and the method."""
_MOST_HEADS: Final = 4096
TELL_LOAD_EVERY = 8
"""Answers, of which one says how busy the instance is: often enough to balance by, seldom enough to cost nothing."""

Place = tuple[str, str, Priority]
"""Where answers that can go together go: an address, the service that asked, and a priority."""


class _Answer(NamedTuple):
    """
    Attributes:
        row: what of it differs from others; or all of it, if it is for one who reads no rows.
        deadline: in the loop's time.
    """

    row: bytes
    deadline: float
    to: ServiceMessage
    kind: MessageType
    payload: Any
    error: dict[str, Any] | None
    number: int
    headers: dict[str, Any] | None


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
        self._loop = asyncio.get_running_loop()
        self._service, self._instance, self._ids = service, me.instance, me.ids
        self._limits = codec.Limits(message_bytes=min(settings.max_message_bytes, transport.max_body))
        self._besides = len(service) + len(me.instance) + _FRAME
        self._max_batch = min(settings.max_batch_bytes, transport.max_body)
        self._heads: dict[tuple[str, Priority], bytes] = {}
        self._ready: dict[Place, list[_Answer]] = {}
        self._held: deque[tuple[Place, _Answer]] = deque()
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
        limits = self._limits
        if type(to) is JsonMessage:
            row = codec.encode_json(self._whole(to, kind, payload, error, number, headers), limits)
        elif error is None and headers is None and kind is _RESPONSE:
            row = codec.encode_row((id, payload), len(source) + len(method) + self._besides, limits)
        else:
            codec.check_extras(error, headers, limits)
            fields = id, payload, kind, number, error, headers
            row = codec.encode_row(fields, len(source) + len(method) + self._besides, limits)
        answer = _new(_Answer, (row, deadline, to, kind, payload, error, number, headers))
        self._add((address, source, priority), answer)

    def _whole(
        self,
        to: ServiceMessage,
        kind: MessageType,
        payload: Any,
        error: dict[str, Any] | None,
        number: int,
        headers: dict[str, Any] | None,
    ) -> ServiceMessage:
        return ServiceMessage(
            self._ids.next(),
            kind,
            self._service,
            self._instance,
            to.source,
            to.method,
            payload,
            to.priority,
            to.id,
            None,
            number,
            None,
            error,
            headers,
        )

    def flush(self) -> None:
        """Hand everything over now, as far as the link takes it."""
        self._release()
        for place in list(self._ready):
            self._flush(place)

    def close(self) -> None:
        """Hand over what is left."""
        self.flush()
        self._unwatch()
        if self._again is not None:
            self._again.cancel()
        self.dropped += len(self._held)
        self._held.clear()

    def _add(self, place: Place, answer: _Answer) -> None:
        if self._held:  # it must not overtake those
            self._hold(place, answer)
            return
        waiting = self._ready.get(place)
        if waiting is None:
            self._ready[place] = [answer]
            self._loop.call_soon(self._flush, place)
        else:
            waiting.append(answer)

    def _flush(self, place: Place) -> None:
        waiting = self._ready.pop(place, None)
        if not waiting:
            return
        if len(waiting) == 1 or JsonMessage in {type(answer.to) for answer in waiting}:
            for answer in waiting:
                self._post(place, [answer])
            return
        head = self._head(place)
        room = self._max_batch - len(head) - rows.OVERHEAD
        if len(waiting) <= rows.MOST_ROWS and sum([len(answer.row) for answer in waiting]) <= room:
            self._post(place, waiting, head)
            return
        for part in _parted(waiting, room):
            self._post(place, part, head)

    def _head(self, place: Place) -> bytes:
        _, source, priority = place
        head = self._heads.get((source, priority))
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[source, priority] = rows.head(_RESPONSE, self._service, self._instance, source, priority)
        return head

    def _post(self, place: Place, answers: list[_Answer], head: bytes = b"") -> None:
        address, _, priority = place
        if len(answers) > 1:
            body, content_type = rows.join(head, [answer.row for answer in answers]), rows.ROWS
        elif type((answer := answers[0]).to) is JsonMessage:
            body, content_type = answer.row, codec.JSON
        else:
            body, content_type = codec.encode(self._whole(*answer[2:]), self._limits), codec.MSGPACK
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
        for answer in answers:
            self._hold(place, answer)

    def _hold(self, place: Place, answer: _Answer) -> None:
        self._held.append((place, answer))
        self._held_bytes += len(answer.row)
        while self._held_bytes > MOST_HELD:
            self._held_bytes -= len(self._held.popleft()[1].row)
            self.dropped += 1
        if self._again is None and self._transport.state is LinkState.READY:
            self._again = self._loop.call_later(AGAIN, self._release)

    def _release(self) -> None:
        """What was held is ready again, unless nobody waits for it any more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        now = self._loop.time()
        held, self._held, self._held_bytes = self._held, deque(), 0
        for place, answer in held:
            if answer.deadline > now:
                self._add(place, answer)
            else:
                self.dropped += 1

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and self._held:
            self.flush()


def _parted(waiting: list[_Answer], room: int) -> Iterator[list[_Answer]]:
    """As few parts as hold them all, in order, each of at most ``room`` bytes if it has more than one."""
    start = 0
    while start < len(waiting):
        end, size = start, 0
        while end < len(waiting) and (end == start or (size + len(waiting[end].row) <= room and end - start < rows.MOST_ROWS)):
            size += len(waiting[end].row)
            end += 1
        yield waiting[start:end]
        start = end
