"""The client of the memory broker, over whatever link reaches it: it connects again, restores, and waits within limits."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fabric.clock import Clock
from fabric.errors import (
    ConnectionLost,
    FabricError,
    NotSent,
    PayloadTooLarge,
    TransportClosed,
)
from fabric.tasks import Tasks
from fabric.transports.amqp_life import LinkLife
from fabric.transports.backlog import Published
from fabric.transports.backoff import Backoff
from fabric.transports.base import DeadLetter, LinkEvent, LinkState, QueueSpec, Receiver, Told
from fabric.transports.delays import check_delay
from fabric.transports.headers import check_key, checked_headers
from fabric.transports.link import Dial, Link
from fabric.transports.linked_consumer import LinkedConsumer
from fabric.transports.linked_consumers import LinkedConsumers
from fabric.transports.linked_submission import Submission, failure
from fabric.transports.memory_broker import Outcome
from fabric.transports.memory_session import Verb
from fabric.transports.topology import Topology
from fabric.wire.message import Priority

_LIMIT = 5.0
"""Seconds for a step that has no limit of its caller's."""
_CONFLICT_BACKOFF = Backoff(first=1.0, most=30.0)


class LinkedTransport:
    """See ``Transport``.

    Args:
        name: of the kind of transport.
        topology: its exchanges are declared on each link.
        dial: opens a link.
        max_body: bytes that a message may have; the broker may allow less.
        backoff: between attempts to connect.
        clock: for the waits between attempts; limits on waiting are on the event loop's own clock.
        chance: for the jitter of these waits.
    """

    def __init__(
        self, name: str, topology: Topology, dial: Dial, *, max_body: int, backoff: Backoff, clock: Clock, chance: random.Random
    ) -> None:
        self._name, self._topology, self._dial = name, topology, dial
        self._most_body, self._backoff, self._clock, self._chance = max_body, backoff, clock, chance
        self._life = LinkLife()
        self._closed = False
        self._link: Link | None = None
        self._linked, self._open = asyncio.Event(), asyncio.Event()
        self._connecting = asyncio.Lock()
        self._consumers = LinkedConsumers()
        self._ids = itertools.count(1)
        self._tasks = Tasks(f"{name} transport")
        self._leaving: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def state(self) -> LinkState:
        return self._life.state

    @property
    def epoch(self) -> int:
        return self._life.epoch

    @property
    def max_body(self) -> int:
        return self._most_body

    def watch(self, listener: Callable[[LinkEvent], None]) -> Callable[[], None]:
        return self._life.watch(listener)

    async def connect(self, *, timeout: float) -> None:
        tried: Exception | None = None
        try:
            async with asyncio.timeout(timeout), self._connecting:
                if self.epoch:
                    await self._present_link(self._linked)
                    return
                self._check_open()
                self._enter(LinkState.CONNECTING, "asked to connect")
                for attempt in itertools.count():
                    try:
                        await self._establish()
                        return
                    except (ConnectionLost, TimeoutError) as error:
                        tried = error
                    await self._clock.sleep(self._backoff.delay(attempt, self._chance))
        except BaseException as error:
            if self.state is LinkState.CONNECTING:
                self._enter(LinkState.CLOSED, str(error) or str(tried or "given up"))
            if isinstance(error, TimeoutError):
                why = str(tried or "") or "no answer"
                raise ConnectionLost(f"no link to the {self._name} broker within {timeout} s: {why}") from tried
            raise

    async def send(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        timeout: float,
        priority: Priority = Priority.NORMAL,
        content_type: str = "application/msgpack",
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        expires: float | None = None,
        mandatory: bool = False,
        answered: bool = False,
        persistent: bool = False,
        delay: float | None = None,
    ) -> None:
        check_delay(delay, expires=expires, mandatory=mandatory)
        if delay is not None and exchange != self._topology.events:
            raise ValueError(f"only events can be delayed, not what goes to {exchange!r}")
        if len(body) > self._most_body:
            raise PayloadTooLarge(len(body), self._most_body)
        check_key(key)
        if headers:
            headers = checked_headers(headers)
        link = self._link
        until = asyncio.get_running_loop().time() + timeout
        if link is None or self.state is not LinkState.READY or link.congested:
            link = await self._room(timeout)
        outcome = link.publish(exchange, key, body, priority, content_type, headers, message_id, expires, delay)
        if isinstance(outcome, Outcome):
            # Whoever sends in a loop must let the receivers run.
            await asyncio.sleep(0)
        else:
            outcome = await self._confirmed(outcome, until)
        if (error := failure(outcome, exchange, key, mandatory=mandatory)) is not None:
            raise error

    def submit(
        self,
        exchange: str,
        key: str,
        body: bytes,
        told: Told,
        *,
        timeout: float,
        priority: Priority = Priority.NORMAL,
        content_type: str = "application/msgpack",
        answered: bool = False,
    ) -> bool:
        if len(body) > self._most_body:
            raise PayloadTooLarge(len(body), self._most_body)
        check_key(key)
        self._check_open()
        link = self._link
        if link is None or self.state is not LinkState.READY or link.congested:
            return False
        outcome = link.publish(exchange, key, body, priority, content_type, None, None, timeout, None)
        Submission(outcome, told, exchange, key, timeout)
        return True

    def post(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        priority: Priority = Priority.NORMAL,
        content_type: str = "application/msgpack",
        headers: Mapping[str, Any] | None = None,
        expires: float | None = None,
    ) -> bool:
        if len(body) > self._most_body:
            raise PayloadTooLarge(len(body), self._most_body)
        check_key(key)
        if headers:
            headers = checked_headers(headers)
        self._check_open()
        if self._link is None or self.state is not LinkState.READY:
            return False
        return self._link.post(exchange, key, body, priority, content_type, headers, expires)

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> LinkedConsumer:
        consumer = LinkedConsumer(next(self._ids), queue, receiver, ask=self._ask, end=self._end)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    link = await self._present_link(self._linked)
                    self._consumers.add(consumer)
                    try:
                        # A reconnect meanwhile has restored it with the others.
                        if consumer.link is not link:
                            await consumer.attach(link)
                        return consumer
                    except ConnectionLost:
                        continue
        except BaseException as error:
            # The broker may have it all the same.
            consumer.closed = True
            self._start(self._end(consumer), "end a consumer")
            if isinstance(error, TimeoutError):
                raise ConnectionLost(f"not consuming from {queue.name or 'a new queue'!r} within {timeout} s") from None
            raise

    async def dead_letters(self, queue: str, *, limit: int, timeout: float) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        until = asyncio.get_running_loop().time() + timeout
        while len(letters) < limit:
            left = until - asyncio.get_running_loop().time()
            page = await self._ask(Verb.DEAD_LETTERS, queue, len(letters), limit - len(letters), limit=left)
            if not page:
                break
            letters += page
        return letters

    async def replay_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        return bool(await self._ask(Verb.REPLAY, queue, id, limit=timeout, again=False))

    async def discard_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        return bool(await self._ask(Verb.DISCARD, queue, id, limit=timeout, again=False))

    async def ping(self, *, timeout: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._ask(Verb.PING, limit=timeout, again=False)
        return loop.time() - began

    async def aclose(self) -> None:
        if self._leaving is None:
            self._closed = True
            self._enter(LinkState.CLOSED, "closed by us")
            self._leaving = asyncio.get_running_loop().create_task(self._leave(), name=f"{self._name} transport leaves")
        await asyncio.shield(self._leaving)

    # What the link tells its client.

    def delivered(self, link: Link, consumer: int, tag: int, attempt: int, message: Published) -> None:
        self._consumers.delivered(link, consumer, tag, attempt, message)

    def cancelled(self, link: Link, consumer: int) -> None:
        if (known := self._consumers.find(link, consumer)) is not None:
            self._start(self._mend(known, link, "the broker cancelled it: its queue was deleted"), "mend a consumer")

    def blocked(self, link: Link, reason: str) -> None:
        if link is self._link and not self._closed:
            self._enter(LinkState.BLOCKED if reason else LinkState.READY, reason or "the broker takes publishes again")

    def lost(self, link: Link, reason: str) -> None:
        if link is self._link and not self._closed:
            self._link = None
            self._enter(LinkState.RECONNECTING, reason)
            self._start(self._reconnect(), "reconnect")

    # Connecting and restoring.

    async def _establish(self) -> None:
        """A new link with everything on it, and then a new epoch."""
        self._check_open()
        async with asyncio.timeout(_LIMIT):
            link = await self._dial(self)
        try:
            async with asyncio.timeout(_LIMIT):
                await link.ask(Verb.DECLARE, [(exchange.name, exchange.kind.value) for exchange in self._topology.exchanges])
                refused = await self._consumers.restore(link)
            if link.closed:
                raise ConnectionLost("the link broke while it was set up")
            self._check_open()
        except BaseException as error:
            link.abort()
            if isinstance(error, TimeoutError):
                raise ConnectionLost(f"the broker did not set the link up within {_LIMIT} s") from None
            raise
        self._link = link
        self._most_body = min(self._most_body, link.max_body)
        self._enter(LinkState.READY, "connected")
        if link.blocked_by:
            self._enter(LinkState.BLOCKED, link.blocked_by)
        for consumer, reason in refused.items():
            self._start(self._mend(consumer, link, reason), "mend a consumer")
        self._consumers.start(link)

    async def _reconnect(self) -> None:
        for attempt in itertools.count():
            await self._clock.sleep(self._backoff.delay(attempt, self._chance))
            try:
                await self._establish()
                return
            except TransportClosed:
                return
            except (FabricError, TimeoutError):
                continue
            except Exception as error:  # a mistake of ours, but a transport that stopped trying would be worse
                context = {"message": f"the {self._name} transport failed to reconnect", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    async def _mend(self, consumer: LinkedConsumer, link: Link, reason: str) -> None:
        """Consume again on ``link``, as long as it lives; with the next one it is restored anyway."""
        for attempt in itertools.count():
            await self._linked.wait()
            if consumer.closed or link is not self._link:
                return
            try:
                async with asyncio.timeout(_LIMIT):
                    await consumer.attach(link)
            except (FabricError, TimeoutError) as error:
                if link is not self._link:
                    return
                self._life.consumer_refused(consumer.address, str(error) or "the broker did not answer")
                await self._clock.sleep(_CONFLICT_BACKOFF.delay(attempt, self._chance))
            else:
                self._life.consumer_restored(consumer.address, reason)
                return

    async def _leave(self) -> None:
        link, self._link = self._link, None
        await self._tasks.aclose()
        self._consumers.close()
        if link is not None:
            await link.aclose()

    # Waiting.

    async def _present_link(self, event: asyncio.Event) -> Link:
        """The link, when ``event`` is set. Waits without limit."""
        while True:
            self._check_open()
            if event.is_set() and self._link is not None:
                return self._link
            await event.wait()

    async def _room(self, timeout: float) -> Link:
        """A link that takes publishes."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    link = await self._present_link(self._open)
                    if not link.congested:
                        return link
                    try:
                        await link.wait_room()
                    except ConnectionLost:
                        continue
        except TimeoutError:
            raise NotSent(f"the link was {self.state} or busy for {timeout} s: the broker never had it") from None

    async def _confirmed(self, confirm: asyncio.Future[Outcome], until: float) -> Outcome:
        try:
            async with asyncio.timeout_at(until):
                return await confirm
        except TimeoutError:
            raise ConnectionLost("the broker did not confirm it in time: it may have arrived") from None

    async def _ask(self, verb: Verb, *arguments: Any, limit: float = _LIMIT, again: bool = True) -> Any:
        """Ask the present link, waiting for one; ``again`` on the next one if it breaks meanwhile."""
        try:
            async with asyncio.timeout(limit):
                while True:
                    link = await self._present_link(self._linked)
                    try:
                        return await link.ask(verb, *arguments)
                    except ConnectionLost:
                        if not again:
                            raise
        except TimeoutError:
            raise ConnectionLost(f"the {self._name} broker did not answer within {limit:.3g} s") from None

    # Telling.

    def _enter(self, state: LinkState, reason: str) -> None:
        # Closing wakes who waits too, so that it can say why it ends.
        _set(self._open, self._closed or state is LinkState.READY)
        _set(self._linked, self._closed or state in (LinkState.READY, LinkState.BLOCKED))
        self._life.enter(state, reason)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed(f"this {self._name} transport is closed")

    async def _end(self, consumer: LinkedConsumer) -> None:
        self._consumers.remove(consumer)
        if self._link is None:
            return
        try:
            async with asyncio.timeout(_LIMIT):
                await self._link.ask(Verb.CANCEL, consumer.id)
        except (FabricError, TimeoutError):
            # Then the link is gone or as good as gone, and the consumer with it.
            pass

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if not self._closed:
            self._tasks.start(work, name)
        else:
            work.close()


def _set(event: asyncio.Event, wanted: bool) -> None:
    if wanted:
        event.set()
    else:
        event.clear()
