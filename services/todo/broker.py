"""Watches the broker, and cares for the events that services gave up."""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable

from fabric import Health, Service, rpc
from fabric.clock import Clock, SystemClock
from fabric.errors import InvalidMessage, TransportError
from fabric.transports.base import DeadLetter, LinkEvent, LinkState
from fabric.wire import codec
from services.todo.contracts import Limit
from services.todo.fleet_contracts import BrokerFacts, DeadEvent, LinkChange, ServiceName

GROUP = "default"


class MessageBroker(Service):
    """The broker's state by its own link and pings; dead letters by listing, replaying and discarding."""

    name, version = "message-broker", "1.0.0"
    capabilities = ("broker-monitoring", "dead-letters")

    PING_SECONDS = 2.0

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._changes: deque[LinkChange] = deque(maxlen=50)
        self._unwatch: Callable[[], None] = lambda: None

    async def start(self) -> None:
        self._unwatch = self.hub.transport.watch(self._changed)
        await self.hub.ping(timeout=5.0)

    async def stop(self) -> None:
        self._unwatch()

    async def check_health(self) -> Health:
        transport = self.hub.transport
        if transport.state is LinkState.BLOCKED:
            return Health.bad("the broker takes no publishes: it has a memory or disk alarm; free some or raise its watermark")
        try:
            seconds = await self.hub.ping(timeout=self.PING_SECONDS)
        except TransportError as error:
            return Health.bad(f"the broker does not answer a ping: {error}")
        return Health.ok(transport=transport.name, epoch=transport.epoch, round_trip=seconds)

    @rpc(idempotent=True, timeout=5.0)
    async def status(self) -> BrokerFacts:
        """The broker now, with a ping of its own."""
        transport = self.hub.transport
        try:
            seconds: float | None = await self.hub.ping(timeout=self.PING_SECONDS)
        except TransportError:
            seconds = None
        return BrokerFacts(
            transport=transport.name,
            state=transport.state,
            epoch=transport.epoch,
            round_trip=seconds,
            changes=tuple(self._changes),
        )

    @rpc(idempotent=True, timeout=15.0)
    async def dead_letters(self, service: ServiceName, group: ServiceName = GROUP, limit: Limit = 100) -> list[DeadEvent]:
        """The oldest events that ``service`` gave up, left in place."""
        return [_readable(letter) for letter in await self.hub.dead_letters(service, group).list(limit=limit)]

    @rpc(timeout=15.0)
    async def replay(self, service: ServiceName, id: str, group: ServiceName = GROUP) -> bool:
        """Deliver one again, with fresh attempts. False: it is not there."""
        return await self.hub.dead_letters(service, group).replay(id)

    @rpc(timeout=60.0)
    async def replay_all(self, service: ServiceName, group: ServiceName = GROUP, limit: Limit = 100) -> int:
        """Deliver the oldest ``limit`` again, in order, and say how many were. One that fails once more dies once more."""
        letters = self.hub.dead_letters(service, group)
        return sum([await letters.replay(letter.id) for letter in await letters.list(limit=limit)])

    @rpc(idempotent=True, timeout=15.0)
    async def discard(self, service: ServiceName, id: str, group: ServiceName = GROUP) -> bool:
        """Remove one for good. False: it is not there."""
        return await self.hub.dead_letters(service, group).discard(id)

    def _changed(self, event: LinkEvent) -> None:
        at = datetime.datetime.fromtimestamp(self._clock.time(), datetime.UTC)
        self._changes.append(LinkChange(at=at, state=event.state, epoch=event.epoch, reason=event.reason))


def _readable(letter: DeadLetter) -> DeadEvent:
    try:
        payload = codec.decode(letter.body, letter.content_type).payload
    except InvalidMessage:
        payload = None
    return DeadEvent(
        id=letter.id,
        topic=letter.key,
        payload=payload,
        reason=letter.reason,
        attempts=letter.attempts,
        died_at=datetime.datetime.fromtimestamp(letter.died_at, datetime.UTC),
        history=tuple(dict(entry) for entry in letter.history),
    )
