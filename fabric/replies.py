"""Answers on their way back: together when they are ready together, and held while the link is down."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

from fabric.config import Settings
from fabric.errors import FabricError, InvalidMessage, PayloadTooLarge
from fabric.identity import Identity
from fabric.routing import outcomes
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.wire import codec, rows
from fabric.wire.message import JsonMessage, MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.replies")

AGAIN = 0.05
"""Seconds before what the transport had no room for is offered to it again."""
MOST_HELD = 64 * 1024 * 1024
"""Bytes held for a link that is down; then the oldest are dropped."""
_RESPONSE: Final = MessageType.RESPONSE
_FRAME: Final = 64
"""Bytes at most that an answer of its own has besides what its row and its head hold, and the method."""
TELL_LOAD_EVERY = 8
"""Answers, of which one says how busy the instance is: often enough to balance by, seldom enough to cost nothing."""

Place = tuple[str, str, Priority, bool]
"""Where answers that can go together go: an address, the service that asked, a priority, and whether it reads JSON only."""

_More = tuple[MessageType, int, dict[str, Any] | None, dict[str, Any] | None]
"""What is seldom said: another type, a number, an error and headers."""

_Answer = tuple[bytes, float, ServiceMessage, Any, _More | None]
"""What of it differs from others, or all of it for one who reads JSON only; its deadline in the loop's time; the request; the
payload; and more."""


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
        self._besides = len((service + me.instance).encode()) + _FRAME
        self._max_batch = min(settings.max_batch_bytes, transport.max_body)
        self._ready: dict[Place, list[_Answer]] = {}
        self._held: deque[tuple[Place, _Answer]] = deque()
        self._held_bytes = self._sent = self._load = 0
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
        self._load = load
        if error is None and type(to) is ServiceMessage:
            # Nearly all of them; the other way would cost each three calls more.
            id, _, source, _, _, method, _, priority, _, _, _, address, _, _ = to
            if address is None:
                return
            try:
                row = codec.encode_row((id, payload), 4 * (len(source) + len(method)) + self._besides, self._limits)
            except (PayloadTooLarge, InvalidMessage):
                pass  # or perhaps not, if these are ASCII, which the other way finds out
            else:
                self._add((address, source, priority, False), (row, deadline, to, payload, None))
                return
        try:
            self.send(to, _RESPONSE, deadline, payload, error, to.attempt)
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
        if to.reply_to is None:
            return
        more = kind, number, error, headers
        in_json = type(to) is JsonMessage
        if in_json:
            row = codec.encode_json(self._whole(to, payload, more), self._limits)
        else:
            codec.check_extras(error, headers, self._limits)
            besides = len((to.source + to.method).encode()) + self._besides
            row = codec.encode_row((to.id, payload, *more), besides, self._limits)
        if error:  # it may hold what belongs to the handler, and be encoded again
            more = kind, number, deepcopy(error), headers
        self._add((to.reply_to, to.source, to.priority, in_json), (row, deadline, to, payload, more))

    def _whole(self, to: ServiceMessage, payload: Any, more: _More | None) -> ServiceMessage:
        """The message that says that by itself."""
        kind, number, error, headers = more if more is not None else (_RESPONSE, to.attempt, None, None)
        if kind is _RESPONSE and headers is None:
            self._sent += 1
            headers = None if self._sent % TELL_LOAD_EVERY else {"load": self._load}
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
        _, source, priority, in_json = place
        if len(waiting) == 1 or in_json:
            for answer in waiting:
                row, _, to, payload, more = answer
                if in_json:
                    self._post(place, [answer], row, codec.JSON)
                else:
                    self._post(place, [answer], codec.encode(self._whole(to, payload, more), self._limits), codec.MSGPACK)
            return
        head = rows.head(_RESPONSE, self._service, self._instance, source, priority, load=self._load)
        room = self._max_batch - len(head) - rows.OVERHEAD
        lines = [answer[0] for answer in waiting]
        if len(waiting) <= rows.MOST_ROWS and sum(map(len, lines)) <= room:
            self._post(place, waiting, rows.join(head, lines), rows.ROWS)
            return
        for part in _parted(waiting, room):
            self._post(place, part, rows.join(head, [answer[0] for answer in part]), rows.ROWS)

    def _post(self, place: Place, answers: list[_Answer], body: bytes, content_type: str) -> None:
        address, _, priority, _ = place
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
        row, deadline, to, payload, more = answer
        # What was asked may be far larger than the answer, and is not needed any more.
        self._held.append((place, (row, deadline, to._replace(payload=None, headers=None), payload, more)))
        self._held_bytes += len(row)
        while self._held_bytes > MOST_HELD:
            self._held_bytes -= len(self._held.popleft()[1][0])
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
            if answer[1] > now:
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
        while end < len(waiting) and (end == start or (size + len(waiting[end][0]) <= room and end - start < rows.MOST_ROWS)):
            size += len(waiting[end][0])
            end += 1
        yield waiting[start:end]
        start = end
