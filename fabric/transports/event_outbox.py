"""Events on their way to be stored: those of one topic and priority that are ready together are stored as one message.

Everything that is ready in a loop turn leaves at its end, as long as few bodies of its lane wait for their confirm; else it
waits for one of these, and fills the next. A lone event travels as it is.
"""

from __future__ import annotations

import asyncio
from copy import copy

from fabric.deadlines import Deadlines
from fabric.errors import ConnectionLost, FabricError, NotSent, PayloadTooLarge, TransportClosed
from fabric.tasks import Tasks
from fabric.transports.base import LinkEvent, LinkState, Transport
from fabric.transports.headers import check_key
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority

MOST_UNDER_WAY = 4
"""Bodies of one lane that wait for their confirm. More would make them smaller, fewer would let the broker wait for us."""
MOST_PARTS = 128
"""Events in one body: what a lost consumer may have to do again, and one consumer may keep from others for a moment."""
MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 1024 * 1024


class _Event:
    """One that is not confirmed.

    Attributes:
        left: it was handed to the transport.
    """

    __slots__ = ("data", "deadline", "done", "id", "left", "timeout")

    def __init__(self, data: bytes, id: str, done: asyncio.Future[None], deadline: float, timeout: float) -> None:
        self.data, self.id, self.done, self.deadline, self.timeout = data, id, done, deadline, timeout
        self.left = False


class _Lane:
    """What goes to one topic with one priority."""

    __slots__ = ("due", "events", "key", "priority", "under_way")

    def __init__(self, key: str, priority: Priority) -> None:
        self.key, self.priority = key, priority
        self.events: dict[_Event, None] = {}
        self.under_way = 0
        self.due = False


class EventOutbox:
    """Sends events to one exchange, stored and confirmed. It ends with its transport.

    Args:
        max_batch_bytes: of one body that holds several.
    """

    def __init__(self, transport: Transport, exchange: str, *, max_batch_bytes: int) -> None:
        self._transport, self._exchange = transport, exchange
        self._max_batch = min(max_batch_bytes, transport.max_body)
        self._lanes: dict[tuple[str, Priority], _Lane] = {}
        self._deadlines: Deadlines[_Event] = Deadlines(self._expire)
        self._tasks = Tasks("event outbox")
        self._waiting = self._waiting_bytes = 0
        transport.watch(self._link_changed)

    async def send(self, key: str, data: bytes, *, id: str, priority: Priority, timeout: float) -> None:
        """Return when the broker has stored it.

        Raises: as ``Transport.send``.
        """
        transport = self._transport
        if len(data) > transport.max_body:
            raise PayloadTooLarge(len(data), transport.max_body)
        check_key(key)
        state, size = transport.state, len(data)
        if state is LinkState.CLOSED:
            raise TransportClosed("the transport is closed")
        if self._waiting_bytes + size > MOST_WAITING_BYTES or (state is not LinkState.READY and self._waiting >= MOST_WAITING):
            raise NotSent(f"the link is {state}, and {self._waiting} events wait for it already")
        loop = asyncio.get_running_loop()
        event = _Event(data, id, loop.create_future(), loop.time() + timeout, timeout)
        lane = self._lanes.get((key, priority))
        if lane is None:
            lane = self._lanes[key, priority] = _Lane(key, priority)
        lane.events[event] = None
        self._waiting += 1
        self._waiting_bytes += size
        self._deadlines.add(event, event.deadline)
        if not lane.due and lane.under_way < MOST_UNDER_WAY:
            lane.due = True
            loop.call_soon(self._flush, lane)
        try:
            await event.done
        finally:
            self._deadlines.remove(event, event.deadline)
            if not event.left:
                self._take_out(lane, event)
                self._forget(lane)

    def _take_out(self, lane: _Lane, event: _Event) -> None:
        del lane.events[event]
        self._waiting -= 1
        self._waiting_bytes -= len(event.data)

    def _forget(self, lane: _Lane) -> None:
        place = lane.key, lane.priority
        if not lane.events and not lane.under_way and not lane.due and self._lanes.get(place) is lane:
            del self._lanes[place]

    def _expire(self, event: _Event) -> None:
        if event.done.done():
            return
        if event.left:
            event.done.set_exception(ConnectionLost(f"sent but not confirmed within {event.timeout:g} s"))
        else:
            event.done.set_exception(NotSent(f"the link was {self._transport.state} until its time was up"))

    def _link_changed(self, change: LinkEvent) -> None:
        if change.consumer:
            return
        if change.state is LinkState.READY:
            for lane in list(self._lanes.values()):
                self._flush(lane)
        elif change.state is LinkState.CLOSED:
            self._deadlines.close()
            for lane in self._lanes.values():
                for event in lane.events:
                    if not event.done.done():
                        event.done.set_exception(TransportClosed("the transport is closed"))

    def _flush(self, lane: _Lane) -> None:
        lane.due = False
        if self._transport.state is LinkState.READY:
            while lane.under_way < MOST_UNDER_WAY and (events := self._take(lane)):
                lane.under_way += 1
                self._tasks.start(self._send(lane, events), lane.key)
        self._forget(lane)

    def _take(self, lane: _Lane) -> list[_Event]:
        """The next that go together. Who was given up is never sent."""
        taken: list[_Event] = []
        room = self._max_batch - batch.OVERHEAD
        for event in lane.events:
            if event.done.done():
                continue
            room -= len(event.data) + batch.OVERHEAD
            if taken and (room < 0 or len(taken) >= MOST_PARTS):
                break
            taken.append(event)
        for event in taken:
            event.left = True
            self._take_out(lane, event)
        return taken

    async def _send(self, lane: _Lane, events: list[_Event]) -> None:
        first = events[0]
        alone = len(events) == 1
        last = first.deadline if alone else max(event.deadline for event in events)
        try:
            await self._transport.send(
                self._exchange,
                lane.key,
                first.data if alone else batch.join([event.data for event in events]),
                timeout=max(last - asyncio.get_running_loop().time(), 0.001),
                priority=lane.priority,
                content_type=MSGPACK if alone else batch.BATCH,
                message_id=first.id if alone else None,
                persistent=True,
            )
        except Exception as error:
            for event in events:
                if not event.done.done():
                    event.done.set_exception(error if alone else _again(error))
        else:
            for event in events:
                if not event.done.done():
                    event.done.set_result(None)
        finally:
            lane.under_way -= 1
            self._flush(lane)


def _again(error: Exception) -> Exception:
    """The same for one of several, who must not write their traceback into that of the others."""
    if not isinstance(error, FabricError):
        return error
    made = copy(error)
    made.__cause__ = error
    return made
