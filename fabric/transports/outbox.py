"""Coalescing: messages for one destination and priority that are ready together travel as one body.

Alone a message leaves in the same loop turn, under load a body carries hundreds. A body costs as much as ten messages. So
where several answers of one callee are to come, which may bring more to send, the next body waits until a moment has passed
since the last. A full one does not, nor one of high priority, nor one of a callee that owes few answers.

What keeps bodies from being many is that pause, or that a callee owes few answers; then the broker need not confirm each: it is
asked now and then about all, and most are answered by then. It has to confirm full ones, those to a callee that owes very many,
and those of high priority in a crowd: while these are under way the next one fills.

While the link is down, what waits stays here, so that what its sender has given up by then provably never leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from math import inf
from time import monotonic
from typing import Any, Protocol

from fabric.errors import ConnectionLost, FabricError, NotSent, TransportClosed
from fabric.fine_timer import FineTimer
from fabric.tasks import Tasks
from fabric.transports.base import LinkEvent, LinkState, Told, Transport
from fabric.wire import batch, rows
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority

_log = logging.getLogger("fabric.outbox")

_LOW, _READY, _CLOSED = Priority.LOW, LinkState.READY, LinkState.CLOSED  # to look up a member takes as long as a call

_TIDY = 256
_ENOUGH = 50
"""Messages that leave although another body of their lane is under way, or others may come in the same turn: so the callee works
on the first while the rest is made. Fewer give smaller bodies, each of which costs broker and callee as much as ten messages."""
_MOST_BODIES = 2
"""Of one lane that are under way at the same time."""
_PAUSE = 0.001
"""Seconds from one small body of a lane to the next in a crowd."""
_MANY = _MOST_BODIES * _ENOUGH
"""Messages without an answer from which on confirms are the better clock: by them bodies grow with the load."""
_MOST_UNSURE = 64
"""Bodies of one lane of which nobody knows yet whether the broker has them; with more it is slow, and has to confirm the next."""
_SMALL = 16 * 1024
"""Bytes of a body of which more than one may be so."""
_CROWD = 4
"""Messages without an answer, besides those that wait here, which make a crowd: in closed loops with fewer nobody would come."""
_REST = 0.05
"""Seconds between looks for lanes that nothing has been put in."""


class Parcel(Protocol):
    """What the outbox needs to know of a message besides its bytes.

    Attributes:
        deadline: in the loop's time.
        future: done once nobody waits for it; it is then dropped if it has not left.
        left: set here when it is handed to the transport; until then it has not left this process.
    """

    deadline: float
    left: bool

    @property
    def future(self) -> asyncio.Future[Any]: ...


class _Lane:
    __slots__ = (
        "bodies",
        "busy",
        "bytes",
        "company",
        "exchange",
        "head",
        "key",
        "left_at",
        "parcels",
        "patient",
        "priority",
        "rows",
        "tidy_at",
        "unsure",
    )

    def __init__(self, exchange: str, key: str, priority: Priority, head: bytes) -> None:
        self.exchange, self.key, self.priority, self.head = exchange, key, priority, head
        self.patient = priority <= Priority.NORMAL
        self.company = 0
        """Messages without an answer, those that wait here included, when the last one was put in."""
        self.left_at = -inf
        """When the last body left, in monotonic seconds: the loop's time may have steps as long as a pause."""
        self.rows: list[bytes] = []
        self.parcels: list[Parcel] = []
        self.bytes = 0
        """What waits, and how much it is."""
        self.busy = False
        self.bodies = 0
        """How many are under way and to be confirmed."""
        self.unsure = 0
        """How many others have left of which it is not known yet whether the broker has them."""
        self.tidy_at = _TIDY
        """How many items make a look for unwanted ones worth while: twice what the last look left."""

    def tidy(self) -> None:
        """Forget what nobody wants any more, which piles up while the link is down."""
        kept = [(row, parcel) for row, parcel in zip(self.rows, self.parcels, strict=True) if not parcel.future.done()]
        self.rows, self.parcels = [row for row, _ in kept], [parcel for _, parcel in kept]
        self.bytes = sum(map(len, self.rows))
        self.tidy_at = _TIDY + 2 * len(kept)


class Outbox:
    """Mandatory, confirmed sending of many messages.

    Args:
        sent: called with the parcels of a body that the broker has confirmed.
        failed: called with the parcels of a body and why it failed: ``NoRoute``, ``NotSent``, ``ConnectionLost`` ...
        whole: makes the message of a parcel that was put as a row and travels alone.
        max_batch_bytes: of one body.
        max_waiting_bytes: of one lane; more is refused, which is the back-pressure.
        pause: seconds from one small body of a lane to the next in a crowd.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        sent: Callable[[Sequence[Parcel]], None],
        failed: Callable[[Sequence[Parcel], FabricError], None],
        whole: Callable[[Parcel], bytes] | None = None,
        max_batch_bytes: int,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        pause: float = _PAUSE,
    ) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._sent, self._failed, self._whole = sent, failed, whole
        self._max_batch, self._max_waiting = min(max_batch_bytes, transport.max_body), max_waiting_bytes
        self._pause = pause
        self._lanes: dict[tuple[str, str, Priority, bytes], _Lane] = {}
        self._held: dict[_Lane, None] = {}
        """Those whose next body waits for company."""
        self._resume_at = inf
        self._timer = FineTimer(self._resume)
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks = Tasks("outbox")
        self._closed = False
        self._unwatch = transport.watch(self._link_changed)

    def put(
        self, exchange: str, key: str, priority: Priority, data: bytes, parcel: Parcel, company: int = 0, head: bytes = b""
    ) -> None:
        """Send ``data`` with whatever else of that head is ready for there.

        Args:
            data: a row below ``head``, or a whole message where that is empty.
            company: messages for there without an answer, this one included.

        Raises:
            NotSent: the lane is full; or the broker takes nothing, and what is of low priority does not wait for it.
        """
        place = exchange, key, priority, head
        known = self._lanes.get(place)
        lane = known if known is not None else _Lane(*place)
        size = lane.bytes + len(data)
        if len(lane.rows) >= lane.tidy_at or size > self._max_waiting:
            lane.tidy()
            size = lane.bytes + len(data)
            if size > self._max_waiting:
                raise NotSent(f"{lane.bytes} bytes wait for {key!r} already")
        if priority is _LOW and self._transport.state is LinkState.BLOCKED:
            raise NotSent("the broker takes no publishes at present; low priority is shed first")
        if known is None:
            self._lanes[place] = lane
        lane.rows.append(data)
        lane.parcels.append(parcel)
        lane.bytes = size
        lane.company = company
        if not lane.busy:
            lane.busy = True
            self._loop.call_soon(self._flush, lane)
        elif len(lane.rows) >= _ENOUGH:
            if lane.bodies < _MOST_BODIES:
                self._flush(lane)
        elif lane in self._held and not self._waits(lane):
            del self._held[lane]
            self._loop.call_soon(self._flush, lane)

    def _waits(self, lane: _Lane) -> bool:
        """Whether what is in it had better wait for company."""
        count = len(lane.rows)
        return (
            0 < count < _ENOUGH and lane.company - count >= _CROWD and lane.patient and monotonic() < lane.left_at + self._pause
        )

    def _hold(self, lane: _Lane) -> None:
        self._held[lane] = None
        at = lane.left_at + self._pause
        if at < self._resume_at:
            self._resume_at = at
            self._timer.set(at - monotonic())

    def _resume(self) -> None:
        """Send what has waited long enough for company, or hold it again."""
        self._resume_at = inf
        held, self._held = self._held, {}
        for lane in held:
            self._loop.call_soon(self._flush, lane)

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and not event.consumer:
            for lane in list(self._lanes.values()):
                if not lane.busy:
                    lane.busy = True
                    self._flush(lane)

    def _flush(self, lane: _Lane) -> None:
        """Send the next body of a lane, which the caller has marked busy."""
        self._held.pop(lane, None)
        if self._closed:
            self._refuse(lane)
            return
        state = self._transport.state
        if state is not _READY and state is not _CLOSED:
            lane.busy = False
            return
        if lane.bodies >= _MOST_BODIES:
            return  # the first of them that ends goes on
        if self._waits(lane):
            self._hold(lane)
            return
        bodies, parcels = self._take(lane)
        while not bodies and lane.rows:  # nobody wants any more what would have filled a body
            bodies, parcels = self._take(lane)
        if not bodies:
            if not lane.bodies:
                self._rest(lane)
            return
        if len(bodies) == 1:
            body, content_type = bodies[0], MSGPACK
            if lane.head and self._whole is not None:
                try:
                    body = self._whole(parcels[0])
                except FabricError as error:  # what it holds was changed since it was put in; who waits behind it still leaves
                    parcels[0].left = False
                    self._failed(parcels, error)
                    self._flush(lane)
                    return
        elif lane.head:
            body, content_type = rows.join(lane.head, bodies), rows.ROWS
        else:
            body, content_type = batch.join(bodies), batch.BATCH
        lane.left_at = monotonic()
        if not self._may_be_unsure(lane, len(bodies), len(body)):
            lane.bodies += 1
            self._send(lane, body, content_type, parcels, partial(self._ended, lane, parcels), answered=False)
            return
        lane.unsure += 1
        if not self._send(lane, body, content_type, parcels, partial(self._sure, lane, parcels), answered=True):
            return  # what comes behind it waits for the link as well
        if lane.rows:
            self._loop.call_soon(self._flush, lane)
        else:
            self._rest(lane)

    def _may_be_unsure(self, lane: _Lane, count: int, size: int) -> bool:
        """Whether the broker need not confirm at once a body of so many messages and bytes that leaves now."""
        return (
            count < _ENOUGH
            and lane.company < _MANY
            and not lane.bodies
            and (lane.patient or lane.company - count < _CROWD)
            and (not lane.unsure or (lane.unsure < _MOST_UNSURE and size <= _SMALL))
        )

    def _rest(self, lane: _Lane) -> None:
        """Nothing waits in it and nothing is to be confirmed. It is kept until nobody need know what left last, and when."""
        lane.busy = False
        if not lane.unsure and (not lane.patient or monotonic() >= lane.left_at + self._pause):
            self._forget(lane)
        elif self._sweeper is None:
            self._sweeper = self._loop.call_later(_REST, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        for lane in [lane for lane in self._lanes.values() if not lane.busy and not lane.rows]:
            self._rest(lane)

    def _forget(self, lane: _Lane) -> None:
        self._lanes.pop((lane.exchange, lane.key, lane.priority, lane.head), None)

    def _refuse(self, lane: _Lane) -> None:
        self._held.pop(lane, None)
        self._forget(lane)
        parcels = lane.parcels
        lane.rows, lane.parcels, lane.bytes = [], [], 0
        if parcels:
            self._failed(parcels, TransportClosed("the hub is closed"))

    def _take(self, lane: _Lane) -> tuple[list[bytes], list[Parcel]]:
        """What is still wanted of it, as much as one body may hold."""
        bodies, parcels, room = lane.rows, lane.parcels, self._max_batch - rows.OVERHEAD - len(lane.head)
        if lane.bytes + len(bodies) * batch.OVERHEAD <= room and len(bodies) <= rows.MOST_ROWS:
            lane.rows, lane.parcels, lane.bytes = [], [], 0
        else:
            taken = 0
            for row in bodies[: rows.MOST_ROWS]:
                room -= len(row) + batch.OVERHEAD
                if taken and room < 0:
                    break
                taken += 1
                lane.bytes -= len(row)
            bodies, lane.rows = bodies[:taken], bodies[taken:]
            parcels, lane.parcels = parcels[:taken], parcels[taken:]
        wanted = [not parcel.future.done() for parcel in parcels]
        if False in wanted:
            bodies, parcels = list(compress(bodies, wanted)), list(compress(parcels, wanted))
        for parcel in parcels:
            parcel.left = True
        return bodies, parcels

    def _send(
        self, lane: _Lane, body: bytes, content_type: str, parcels: Sequence[Parcel], told: Told, *, answered: bool
    ) -> bool:
        """Returns: whether it is out, or has failed; otherwise it waits for the link, as one that is to be confirmed."""
        last = parcels[0].deadline if len(parcels) == 1 else max([parcel.deadline for parcel in parcels])
        left = max(last - self._loop.time(), 0.001)
        try:
            taken = self._transport.submit(
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
            return True
        if taken:
            return True
        if answered:
            lane.unsure -= 1
            lane.bodies += 1
            told = partial(self._ended, lane, parcels)
        self._tasks.start(self._wait(lane, body, content_type, told, left), lane.key)
        return False

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

    def _sure(self, lane: _Lane, parcels: Sequence[Parcel], error: FabricError | None) -> None:
        """The broker has it, or it failed."""
        lane.unsure -= 1
        self._tell(parcels, error)

    def _ended(self, lane: _Lane, parcels: Sequence[Parcel], error: FabricError | None) -> None:
        """Tell it, and go on with what came meanwhile."""
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
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._timer.close()
        await self._tasks.aclose()
        for lane in list(self._lanes.values()):
            self._refuse(lane)


def _typed(error: Exception) -> FabricError:
    if isinstance(error, FabricError):
        return error
    _log.error("a transport failed: %r", error, exc_info=error)
    return ConnectionLost(f"the transport failed: {error!r}")
