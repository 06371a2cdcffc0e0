"""Coalescing: messages for one destination and priority that are ready together travel as one body.

While one body of a lane is under way the next fills, so a lane adapts by itself: alone a message leaves in the same loop
turn, under load a body carries hundreds. A message is never held back to wait for company.

A message that is the only one under way is answered soon, or nothing waits behind it: that the broker has it need not be
confirmed at once.

While the link is down, what waits stays here, so that what its sender has given up by then provably never leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from fabric.errors import ConnectionLost, FabricError, NotSent, TransportClosed
from fabric.tasks import Tasks
from fabric.transports.base import LinkEvent, LinkState, Told, Transport, UnderWay
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority

_log = logging.getLogger("fabric.outbox")

_TIDY = 256
_ENOUGH = 50
"""Messages that leave although another body of their lane is under way, or others may come in the same turn: so the callee works
on the first while the rest is made. Fewer give smaller bodies, each of which costs broker and callee as much as ten messages."""
_MOST_BODIES = 2
"""Of one lane that are under way at the same time."""


class Parcel(Protocol):
    """What the outbox needs to know of a message besides its bytes.

    Attributes:
        deadline: in the loop's time.
        left: set here when it is handed to the transport; until then it has not left this process.
    """

    deadline: float
    left: bool

    @property
    def wanted(self) -> bool:
        """False once its sender gave up; it is then dropped if it has not left."""
        ...


class _Lane:
    __slots__ = ("bodies", "busy", "bytes", "exchange", "items", "key", "priority", "tidy_at")

    def __init__(self, exchange: str, key: str, priority: Priority) -> None:
        self.exchange, self.key, self.priority = exchange, key, priority
        self.items: list[tuple[bytes, Parcel]] = []
        self.bytes = 0
        self.busy = False
        self.bodies = 0
        """How many are under way."""
        self.tidy_at = _TIDY
        """How many items make a look for unwanted ones worth while: twice what the last look left."""

    def tidy(self) -> None:
        """Forget what nobody wants any more, which piles up while the link is down."""
        self.items = [item for item in self.items if item[1].wanted]
        self.bytes = sum(len(data) for data, _ in self.items)
        self.tidy_at = _TIDY + 2 * len(self.items)


class Outbox:
    """Mandatory, confirmed sending of many messages.

    Args:
        sent: called with the parcels of a body that the broker has confirmed.
        failed: called with the parcels of a body and why it failed: ``NoRoute``, ``NotSent``, ``ConnectionLost`` ...
        max_batch_bytes: of one body.
        max_waiting_bytes: of one lane; more is refused, which is the back-pressure.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        sent: Callable[[Sequence[Parcel]], None],
        failed: Callable[[Sequence[Parcel], FabricError], None],
        max_batch_bytes: int,
        max_waiting_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._sent, self._failed = sent, failed
        self._max_batch, self._max_waiting = min(max_batch_bytes, transport.max_body), max_waiting_bytes
        self._lanes: dict[tuple[str, str, Priority], _Lane] = {}
        self._under_way = 0
        self._lone: Parcel | None = None
        self._lone_under_way: UnderWay | None = None
        self._tasks = Tasks("outbox")
        self._closed = False
        self._unwatch = transport.watch(self._link_changed)

    def put(self, exchange: str, key: str, priority: Priority, data: bytes, parcel: Parcel) -> None:
        """Send ``data`` with whatever else is ready for there.

        Raises:
            NotSent: the lane is full; or the broker takes nothing, and what is of low priority does not wait for it.
        """
        lane = self._lanes.get((exchange, key, priority)) or _Lane(exchange, key, priority)
        if len(lane.items) >= lane.tidy_at or lane.bytes + len(data) > self._max_waiting:
            lane.tidy()
            if lane.bytes + len(data) > self._max_waiting:
                raise NotSent(f"{lane.bytes} bytes wait for {key!r} already")
        if priority is Priority.LOW and self._transport.state is LinkState.BLOCKED:
            raise NotSent("the broker takes no publishes at present; low priority is shed first")
        self._lanes[exchange, key, priority] = lane
        lane.items.append((data, parcel))
        lane.bytes += len(data)
        if not lane.busy:
            lane.busy = True
            self._loop.call_soon(self._flush, lane)
        elif len(lane.items) >= _ENOUGH and lane.bodies < _MOST_BODIES:
            self._flush(lane)

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and not event.consumer:
            for lane in list(self._lanes.values()):
                if not lane.busy:
                    lane.busy = True
                    self._flush(lane)

    def _flush(self, lane: _Lane) -> None:
        """Send the next body of a lane, which the caller has marked busy."""
        if self._closed:
            self._refuse(lane)
            return
        state = self._transport.state
        if state is not LinkState.READY and state is not LinkState.CLOSED:
            lane.busy = False
            return
        if lane.bodies >= _MOST_BODIES:
            return  # the first of them that ends goes on
        bodies, parcels = self._take(lane)
        if not bodies:
            if not lane.bodies:
                lane.busy = False
                self._forget(lane)
            return
        if len(bodies) == 1:
            if not lane.items and not self._under_way and (self._lone is None or not self._lone.wanted):
                lane.busy = False
                self._forget(lane)
                self._send_lone(lane, bodies[0], parcels)
                return
            body, content_type = bodies[0], MSGPACK
        else:
            body, content_type = batch.join(bodies), batch.BATCH
        self._under_way += 1
        lane.bodies += 1
        self._send(lane, body, content_type, parcels, partial(self._ended, lane, parcels), answered=False)

    def _send_lone(self, lane: _Lane, body: bytes, parcels: Sequence[Parcel]) -> None:
        if self._lone_under_way is not None:
            self._lone_under_way.forget()  # the one before has its answer, and needs no other proof that it arrived
        self._lone = parcels[0]
        self._lone_under_way = self._send(lane, body, MSGPACK, parcels, partial(self._tell, parcels), answered=True)

    def _forget(self, lane: _Lane) -> None:
        self._lanes.pop((lane.exchange, lane.key, lane.priority), None)

    def _refuse(self, lane: _Lane) -> None:
        self._forget(lane)
        items, lane.items = lane.items, []
        if items:
            self._failed([parcel for _, parcel in items], TransportClosed("the hub is closed"))

    def _take(self, lane: _Lane) -> tuple[list[bytes], list[Parcel]]:
        bodies: list[bytes] = []
        parcels: list[Parcel] = []
        size, taken = batch.OVERHEAD, 0
        for data, parcel in lane.items:
            if bodies and size + len(data) + batch.OVERHEAD > self._max_batch:
                break
            taken += 1
            lane.bytes -= len(data)
            if parcel.wanted:
                parcel.left = True
                bodies.append(data)
                parcels.append(parcel)
                size += len(data) + batch.OVERHEAD
        del lane.items[:taken]
        return bodies, parcels

    def _send(
        self, lane: _Lane, body: bytes, content_type: str, parcels: Sequence[Parcel], told: Told, *, answered: bool
    ) -> UnderWay | None:
        last = parcels[0].deadline if len(parcels) == 1 else max(parcel.deadline for parcel in parcels)
        left = max(last - self._loop.time(), 0.001)
        try:
            under_way = self._transport.submit(
                lane.exchange,
                lane.key,
                body,
                told,
                timeout=left,
                priority=lane.priority,
                content_type=content_type,
                answered=answered,
            )
        except Exception as error:
            self._loop.call_soon(told, _typed(error))
            return None
        if under_way is None:
            self._tasks.start(self._wait(lane, body, content_type, told, left), lane.key)
        return under_way

    async def _wait(self, lane: _Lane, body: bytes, content_type: str, told: Told, left: float) -> None:
        """Send when the link takes it again."""
        try:
            await self._transport.send(
                lane.exchange,
                lane.key,
                body,
                timeout=left,
                priority=lane.priority,
                content_type=content_type,
                expires=left,
                mandatory=True,
            )
        except Exception as error:
            told(_typed(error))
        else:
            told(None)

    def _ended(self, lane: _Lane, parcels: Sequence[Parcel], error: FabricError | None) -> None:
        """Tell it, and go on with what came meanwhile."""
        self._under_way -= 1
        lane.bodies -= 1
        try:
            self._tell(parcels, error)
        finally:
            self._flush(lane)

    def _tell(self, parcels: Sequence[Parcel], error: FabricError | None) -> None:
        if self._closed:
            return
        if error is None:
            self._sent(parcels)
        else:
            self._failed(parcels, error)

    async def aclose(self) -> None:
        """Refuse what waits, and stop waiting for the confirms of what has left. Idempotent."""
        self._closed = True
        self._unwatch()
        if self._lone_under_way is not None:
            self._lone_under_way.forget()
        await self._tasks.aclose()
        for lane in list(self._lanes.values()):
            self._refuse(lane)


def _typed(error: Exception) -> FabricError:
    if isinstance(error, FabricError):
        return error
    _log.error("a transport failed: %r", error, exc_info=error)
    return ConnectionLost(f"the transport failed: {error!r}")
