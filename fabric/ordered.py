"""Events in order: those of one key run one after the other, different keys at the same time."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fabric.clock import Clock
from fabric.tasks import Tasks
from fabric.transports.base import Delivery
from fabric.wire.message import Priority

ORDER_KEY = "fabric-key"
"""The header of an event that holds the key that it is ordered by."""

_MOST_REMEMBERED = 10_000


@dataclass(slots=True, kw_only=True, eq=False)
class Held:
    """An event that was delivered here and is not settled.

    Attributes:
        delivery: the latest of it.
        stale: the link that it came over was lost: it comes again, here or at a successor.
    """

    delivery: Delivery
    identity: bytes
    stale: bool = False


class Turn:
    """One attempt at a held event, as a ``Delivery`` that is not given back when it fails.

    Attributes:
        failure: why the attempt failed; None if it did not.
        done: whether it was acknowledged.
    """

    def __init__(self, held: Held, number: int) -> None:
        self._held, self._number = held, number
        self.failure: str | None = None
        self.done = False

    @property
    def body(self) -> bytes:
        return self._held.delivery.body

    @property
    def exchange(self) -> str:
        return self._held.delivery.exchange

    @property
    def key(self) -> str:
        return self._held.delivery.key

    @property
    def content_type(self) -> str:
        return self._held.delivery.content_type

    @property
    def priority(self) -> Priority:
        return self._held.delivery.priority

    @property
    def message_id(self) -> str | None:
        return self._held.delivery.message_id

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._held.delivery.headers

    @property
    def redelivered(self) -> bool:
        return self._held.delivery.redelivered

    @property
    def attempt(self) -> int:
        return self._held.delivery.attempt + self._number - 1

    @property
    def user_id(self) -> str | None:
        return self._held.delivery.user_id

    def ack(self) -> None:
        self.done = True
        self._held.delivery.ack()

    async def retry(self, reason: str) -> None:
        self.failure = reason

    async def reject(self, reason: str) -> None:
        await self._held.delivery.reject(reason)


class KeyLanes:
    """One lane for each key that something is held of. Owned by a subscriber.

    Args:
        handle: runs the handlers on one turn and settles it: acknowledged, rejected, or to be tried again.
        tasks: where lanes run.
        concurrency: handlers that run at once.
        max_attempts: turns of one event here before it is dead-lettered.
        retry_delays: seconds before each further turn; the last one repeats. The key waits, no other does.

    Attributes:
        repeated: events that came again while, or after, they were handled here.
    """

    def __init__(
        self,
        handle: Callable[[Turn], Awaitable[None]],
        tasks: Tasks,
        clock: Clock,
        *,
        concurrency: int,
        max_attempts: int,
        retry_delays: tuple[float, ...],
    ) -> None:
        self._handle, self._tasks, self._clock = handle, tasks, clock
        self._max_attempts, self._retry_delays = max_attempts, retry_delays
        self._places = asyncio.Semaphore(concurrency)
        self._lanes: dict[object, deque[Held]] = {}
        self._here: dict[bytes, Held] = {}
        self._done: OrderedDict[bytes, None] = OrderedDict()
        self._resting: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def add(self, delivery: Delivery, key: str | None) -> None:
        """To the end of its lane; None has a lane of its own."""
        if self._stopped:
            return
        identity = hashlib.blake2b(delivery.body, digest_size=16).digest()
        if delivery.redelivered and self._is_known(identity, delivery):
            self.repeated += 1
            return
        held = self._here[identity] = Held(delivery=delivery, identity=identity)
        lane = self._lanes.get(key) if key is not None else None
        if lane is not None:
            lane.append(held)
            return
        place: object = key if key is not None else held
        lane = self._lanes[place] = deque((held,))
        self._tasks.start(self._run(place, lane), f"events of {key!r}")

    def _is_known(self, identity: bytes, delivery: Delivery) -> bool:
        """Whether it is held here, and can be settled by this delivery now, or was handled and only has to be acknowledged."""
        held = self._here.get(identity)
        if held is not None and (held.stale or not held.delivery.redelivered):
            held.delivery, held.stale = delivery, False
            return True
        if identity in self._done:
            delivery.ack()
            return True
        return False

    def lose(self) -> None:
        """The link is lost: what waits comes again and is forgotten here, as a successor may have it by now."""
        for lane in self._lanes.values():
            lane[0].stale = True
            while len(lane) > 1:
                self._forget(lane.pop())

    def stop(self) -> None:
        """Begin nothing more. What waits stays unsettled, so that it goes to a successor in its order."""
        self._stopped = True
        for task in self._resting:
            task.cancel()

    async def _run(self, place: object, lane: deque[Held]) -> None:
        try:
            while lane and not self._stopped:
                try:
                    await self._take(lane[0])
                finally:
                    self._forget(lane.popleft())
        finally:
            del self._lanes[place]

    async def _take(self, held: Held) -> None:
        """Until it is settled, or not ours any more."""
        number = 0
        while True:
            async with self._places:
                if held.stale or self._stopped:
                    return
                number += 1
                turn = Turn(held, number)
                await self._handle(turn)
            if turn.done:
                self._remember(held)
            if turn.failure is None or held.stale or self._stopped:
                return
            if number >= self._max_attempts:
                await held.delivery.reject(f"{turn.failure} (attempt {number} of {self._max_attempts})")
                return
            await self._rest(self._retry_delays[min(number, len(self._retry_delays)) - 1])

    async def _rest(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._resting.add(task)
        try:
            await self._clock.sleep(seconds)
        finally:
            self._resting.discard(task)

    def _remember(self, held: Held) -> None:
        self._done[held.identity] = None
        if len(self._done) > _MOST_REMEMBERED:
            self._done.popitem(last=False)

    def _forget(self, held: Held) -> None:
        if self._here.get(held.identity) is held:
            del self._here[held.identity]
