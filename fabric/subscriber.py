"""Taking events and broadcasts: match the topic, run the handlers, acknowledge or ask for another delivery."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import CallContext, enter, leave
from fabric.contract import HandlerContract, ServiceContract
from fabric.deadlines import Deadlines
from fabric.errors import InvalidMessage
from fabric.ordered import ORDER_KEY, KeyLanes, Turn
from fabric.refusals import Refusals
from fabric.tasks import Tasks
from fabric.transports.base import Consumer, Delivery, LinkEvent, LinkState, Transport
from fabric.transports.topology import Topology
from fabric.values import problems
from fabric.wire import batch, codec
from fabric.wire.message import ServiceMessage
from fabric.workers import Workers

_log = logging.getLogger("fabric.subscriber")

MAX_BROADCASTS = 1000
BROADCAST_TIMEOUT = 60.0
MOST_REMEMBERED = 100_000
MOST_TOPICS = 1000
STOP_PATIENCE = 10.0
"""Seconds that a cancelled handler may take to clean up before it is cancelled again."""


@lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    """AMQP's topic pattern: ``*`` is one word, ``#`` any number of words."""
    expression = ""
    for word in pattern.split("."):
        match word:
            case "#":
                expression += r"(\.[^.]*)*"
            case "*":
                expression += r"\.[^.]*"
            case _:
                expression += r"\." + re.escape(word)
    return re.compile(expression)


def matches(pattern: str, topic: str) -> bool:
    return _pattern(pattern).fullmatch("." + topic) is not None


class _Group:
    """The handlers that share a queue, what runs of it here, and what has been done lately."""

    def __init__(self, name: str, handlers: list[HandlerContract], clock: Clock) -> None:
        options = handlers[0].options
        assert options is not None
        self.name, self.handlers, self.options, self._clock = name, handlers, options, clock
        self.concurrency = max(handler.options.concurrency for handler in handlers if handler.options is not None)
        self.running: dict[str, Delivery] = {}
        self._matching: dict[str, list[HandlerContract]] = {}
        self._done: OrderedDict[str, float] = OrderedDict()

    def finished(self, id: str) -> None:
        if self.options.unique_for:
            self._done[id] = self._clock.monotonic() + self.options.unique_for
            while len(self._done) > MOST_REMEMBERED:
                self._done.popitem(last=False)

    def is_repeat(self, id: str) -> bool:
        """Whether it was handled here within the window."""
        if not self._done:
            return False
        now = self._clock.monotonic()
        while self._done and next(iter(self._done.values())) <= now:
            self._done.popitem(last=False)
        return id in self._done

    def matching(self, topic: str) -> list[HandlerContract]:
        known = self._matching.get(topic)
        if known is None:
            known = [handler for handler in self.handlers if any(matches(pattern, topic) for pattern in handler.patterns)]
            if len(self._matching) < MOST_TOPICS:
                self._matching[topic] = known
        return known


class _Work:
    """One delivery from its arrival to its end.

    Attributes:
        task: what runs its handlers, once that has begun.
        late: its handlers were cancelled because their time was up.
    """

    __slots__ = ("delivery", "group", "late", "task")

    def __init__(self, delivery: Delivery, group: _Group) -> None:
        self.delivery, self.group = delivery, group
        self.task: asyncio.Task[Any] | None = None
        self.late = False

    def stop(self) -> None:
        self.late = True
        if self.task is not None:
            self.task.cancel()


class Subscriber:
    """Runs the event and broadcast handlers of one service in this process. Owned by a hub.

    Attributes:
        handled, failed, invalid: events and broadcasts, by how they ended.
        repeated: events not handled again, as they had been or were being.
        unwanted: events that no handler matches any more; they are acknowledged.
        dropped_broadcasts: refused because too many were being handled.
    """

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        settings: Settings,
        contract: ServiceContract,
        service: object,
        *,
        clock: Clock,
    ) -> None:
        self._transport, self._topology, self._contract, self._service = transport, topology, contract, service
        self._limits, self._clock = codec.Limits(message_bytes=settings.max_message_bytes), clock
        self._refusals = Refusals(_log, clock)
        self._consumers: list[Consumer] = []
        self._ordered: list[Consumer] = []
        self._lanes: list[KeyLanes] = []
        self._unwatch: Callable[[], None] = lambda: None
        self._turns = Tasks(f"{contract.name} events")
        self._workers: Workers[_Work] = Workers(self._take, f"{contract.name} events")
        self._works: dict[_Work, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._deadlines: Deadlines[_Work] = Deadlines(_Work.stop)
        self._broadcasts = Tasks(f"{contract.name} broadcasts")
        self._closing = False
        self.handled = self.failed = self.invalid = self.repeated = self.unwanted = self.dropped_broadcasts = 0

    async def open(self, timeout: float) -> None:
        """Consume. ``timeout`` in seconds for each queue."""
        for name, handlers in self._contract.groups.items():
            group = _Group(name, handlers, self._clock)
            queue = self._topology.event_group(
                self._contract.name,
                tuple(dict.fromkeys(pattern for handler in handlers for pattern in handler.patterns)),
                group=name,
                prefetch=group.options.prefetch(group.concurrency),
                max_attempts=group.options.deliveries,
                retry_delays=group.options.retry_delays,
                ordered=group.options.ordered,
            )
            if group.options.ordered:
                self._ordered.append(await self._transport.consume(queue, self._in_order(group), timeout=timeout))
            else:
                self._consumers.append(await self._transport.consume(queue, self._receiver(group), timeout=timeout))
        if self._contract.broadcasts:
            self._consumers.append(
                await self._transport.consume(self._topology.broadcasts(), self._receive_broadcast, timeout=timeout)
            )

    # ------------------------------------------------------------ events

    def _receiver(self, group: _Group) -> Callable[[Delivery], None]:
        def receive(delivery: Delivery) -> None:
            if not self._closing:  # unacknowledged it goes to another instance
                work = _Work(delivery, group)
                self._works[work] = None
                self._idle.clear()
                self._workers.put(work)

        return receive

    def _in_order(self, group: _Group) -> Callable[[Delivery], None]:
        if not self._lanes:
            self._unwatch = self._transport.watch(self._on_link)
        lanes = KeyLanes(
            lambda turn: self._take_turn(turn, group),
            self._turns,
            self._clock,
            concurrency=group.concurrency,
            max_attempts=group.options.max_attempts,
            retry_delays=group.options.retry_delays,
        )
        self._lanes.append(lanes)

        def receive(delivery: Delivery) -> None:
            if self._closing:
                return
            try:
                headers = codec.decode(delivery.body, delivery.content_type, self._limits).headers or {}
            except InvalidMessage:
                headers = {}  # its turn says what is wrong with it
            key = headers.get(ORDER_KEY)
            lanes.add(delivery, key if isinstance(key, str) else None)

        return receive

    def _on_link(self, event: LinkEvent) -> None:
        if event.state not in (LinkState.READY, LinkState.BLOCKED):
            for lanes in self._lanes:
                lanes.lose()

    async def _take_turn(self, turn: Turn, group: _Group) -> None:
        try:
            message = codec.decode(turn.body, turn.content_type, self._limits)
        except InvalidMessage as error:
            await self._give_up(turn, str(error))
            return
        if group.is_repeat(message.id):
            self.repeated += 1
            turn.ack()
            return
        work = _Work(turn, group)
        work.task = asyncio.current_task()
        await self._handle(message, work)

    async def _take(self, work: _Work, task: asyncio.Task[None]) -> None:
        work.task = task
        delivery, running = work.delivery, work.group.running
        try:
            try:
                message = codec.decode(delivery.body, delivery.content_type, self._limits)
            except InvalidMessage as error:
                await self._give_up(delivery, str(error))
                return
            id = message.id
            if delivery.redelivered and id in running:
                # The link broke while it was being handled: the old delivery can't be acknowledged any more, this one can.
                running[id] = delivery
                self.repeated += 1
                return
            if work.group.is_repeat(id):
                self.repeated += 1
                delivery.ack()
                return
            running[id] = delivery
            try:
                await self._handle(message, work)
            finally:
                if running.get(id) is delivery:
                    del running[id]
        finally:
            del self._works[work]
            if not self._works:
                self._idle.set()

    async def _handle(self, message: ServiceMessage, work: _Work) -> None:
        """Run the handlers and settle the event, whatever they do."""
        delivery, group = work.delivery, work.group
        place = enter(_context(message, delivery))
        try:
            handlers = group.matching(message.method)
            try:
                arguments = [handler.arguments.read(message.payload) for handler in handlers]
            except ValidationError as error:
                await self._give_up(self._newest(message, work), f"does not fit the handler: {problems(error)[:3]}")
                return
            except Exception as error:
                await self._try_again(message, work, error)
                return
            failure = await self._run(handlers, arguments, work)
            if failure is not None:
                await self._try_again(message, work, failure)
                if not isinstance(failure, Exception):
                    raise failure
                return
            if handlers:
                self.handled += 1
            else:
                self.unwanted += 1
            group.finished(message.id)
            self._newest(message, work).ack()
        finally:
            leave(place)

    async def _run(
        self, handlers: Sequence[HandlerContract], arguments: Sequence[dict[str, Any]], work: _Work
    ) -> BaseException | None:
        """The handlers of one event, within their time. Returns what they ended with instead."""
        limit = work.group.options.timeout
        deadline = asyncio.get_running_loop().time() + limit
        self._deadlines.add(work, deadline)
        try:
            for handler, values in zip(handlers, arguments, strict=True):
                await getattr(self._service, handler.attribute)(**values)
        except asyncio.CancelledError:
            if not work.late:
                return RuntimeError("the instance stopped, or the handler was cancelled")
            return TimeoutError(f"the handler took longer than {limit:g} s")
        except BaseException as error:
            return error
        finally:
            self._deadlines.remove(work, deadline)
            if work.late and work.task is not None:
                work.task.uncancel()
        return None

    def _newest(self, message: ServiceMessage, work: _Work) -> Delivery:
        """The delivery of this event that can still be settled; it may have come again while it was being handled."""
        return work.group.running.pop(message.id, work.delivery)

    async def _try_again(self, message: ServiceMessage, work: _Work, error: BaseException) -> None:
        self.failed += 1
        _log.warning("%s could not handle %s: %r", self._contract.name, message.method, error)
        await self._newest(message, work).retry(f"{type(error).__name__}: {error}")

    async def _give_up(self, delivery: Delivery, reason: str) -> None:
        """What can't be read now can't be read later."""
        self.invalid += 1
        self._refusals.tell("%s dead-letters an event %s: %s", self._contract.name, delivery.key, reason)
        await delivery.reject(reason)

    # ------------------------------------------------------------ broadcasts

    def _receive_broadcast(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type, self._limits):
            if isinstance(message, InvalidMessage):
                self.invalid += 1
                continue
            for handler in self._contract.broadcasts:
                if self._closing or not any(matches(topic, message.method) for topic in handler.patterns):
                    continue
                if len(self._broadcasts) >= MAX_BROADCASTS:
                    self.dropped_broadcasts += 1
                    continue
                self._broadcasts.start(self._broadcast(handler, message, delivery), f"broadcast {message.method}")

    async def _broadcast(self, handler: HandlerContract, message: ServiceMessage, delivery: Delivery) -> None:
        enter(_context(message, delivery))
        try:
            async with asyncio.timeout(BROADCAST_TIMEOUT):
                await getattr(self._service, handler.attribute)(**handler.arguments.read(message.payload))
            self.handled += 1
        except Exception as error:
            self.failed += 1
            _log.warning("%s could not handle the broadcast %s: %r", self._contract.name, message.method, error)

    # ------------------------------------------------------------ the end

    async def drain(self, timeout: float) -> bool:
        """Take no more and let what runs end within ``timeout`` seconds. What does not is cancelled, and its events are
        delivered again, elsewhere."""
        self._closing = True
        self._unwatch()
        for lanes in self._lanes:
            lanes.stop()
        for consumer in self._consumers:
            await consumer.aclose()
        ended = await asyncio.gather(self._end_works(timeout), self._turns.wait(timeout), self._broadcasts.wait(timeout))
        await self._stop_works()
        await self._workers.aclose()
        await self._turns.aclose()
        await self._broadcasts.aclose()
        self._deadlines.close()
        for consumer in self._ordered:
            # Not earlier: a successor begins at once, with what was not settled here.
            await consumer.aclose()
        return all(ended)

    async def _end_works(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return not self._works
        return True

    async def _stop_works(self) -> None:
        while self._works:
            for work in self._works:
                if work.task is not None:
                    work.task.cancel()
            if not await self._end_works(STOP_PATIENCE):
                _log.warning("%s: %d event handlers were cancelled and go on", self._contract.name, len(self._works))


def _context(message: ServiceMessage, delivery: Delivery) -> CallContext:
    return CallContext(
        message.id,
        message.source,
        message.instance,
        message.method,
        None,
        delivery.attempt,
        message.priority,
        delivery.user_id,
        message.headers or {},
    )
