"""Coalescing: messages for one destination and priority that are ready together travel as one body.

While one body of a lane is under way the next fills, so a lane adapts by itself: alone a message leaves in the same loop
turn, under load a body carries hundreds. A message is never held back to wait for company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from fabric.errors import FabricError, NotSent
from fabric.tasks import Tasks
from fabric.transports.base import Transport
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority


class Parcel(Protocol):
    """What the outbox needs to know of a message besides its bytes.

    ``wanted`` turns false when its sender gave up; it is then dropped unsent. ``deadline`` is in the loop's time.
    """

    @property
    def wanted(self) -> bool: ...
    @property
    def deadline(self) -> float: ...


class _Lane:
    __slots__ = ("busy", "bytes", "exchange", "items", "key", "priority")

    def __init__(self, exchange: str, key: str, priority: Priority) -> None:
        self.exchange, self.key, self.priority = exchange, key, priority
        self.items: list[tuple[bytes, Parcel]] = []
        self.bytes = 0
        self.busy = False


class Outbox:
    """Mandatory, confirmed sending of many messages.

    Args:
        sent: called with the parcels of a body that the broker has confirmed.
        failed: called with the parcels of a body and why it failed: ``NoRoute``, ``NotSent`` or ``ConnectionLost``.
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
        self._sent, self._failed = sent, failed
        self._max_batch, self._max_waiting = max_batch_bytes, max_waiting_bytes
        self._lanes: dict[tuple[str, str, Priority], _Lane] = {}
        self._tasks = Tasks("outbox")

    def put(self, exchange: str, key: str, priority: Priority, data: bytes, parcel: Parcel) -> None:
        """Send ``data`` with whatever else is ready for there.

        Raises:
            NotSent: the lane is full.
        """
        lane = self._lanes.get((exchange, key, priority))
        if lane is None:
            lane = self._lanes[exchange, key, priority] = _Lane(exchange, key, priority)
        if lane.bytes + len(data) > self._max_waiting:
            raise NotSent(f"{lane.bytes} bytes wait for {key!r} already")
        lane.items.append((data, parcel))
        lane.bytes += len(data)
        if not lane.busy:
            lane.busy = True
            asyncio.get_running_loop().call_soon(self._flush, lane)

    def _flush(self, lane: _Lane) -> None:
        bodies, parcels = self._take(lane)
        if not bodies:
            lane.busy = False
            self._lanes.pop((lane.exchange, lane.key, lane.priority), None)
            return
        body, content_type = (bodies[0], MSGPACK) if len(bodies) == 1 else (batch.join(bodies), batch.BATCH)
        try:
            self._tasks.start(self._send(lane, body, content_type, parcels), f"send to {lane.key}")
        except RuntimeError:
            self._failed(parcels, NotSent("the hub is closing"))

    def _take(self, lane: _Lane) -> tuple[list[bytes], list[Parcel]]:
        bodies: list[bytes] = []
        parcels: list[Parcel] = []
        size = taken = 0
        for data, parcel in lane.items:
            if bodies and size + len(data) > self._max_batch:
                break
            taken += 1
            lane.bytes -= len(data)
            if parcel.wanted:
                bodies.append(data)
                parcels.append(parcel)
                size += len(data) + batch.OVERHEAD
        del lane.items[:taken]
        return bodies, parcels

    async def _send(self, lane: _Lane, body: bytes, content_type: str, parcels: Sequence[Parcel]) -> None:
        left = max(parcel.deadline for parcel in parcels) - asyncio.get_running_loop().time()
        left = max(left, 0.001)
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
        except FabricError as error:
            self._failed(parcels, error)
        else:
            self._sent(parcels)
        self._flush(lane)

    async def aclose(self) -> None:
        await self._tasks.aclose()
