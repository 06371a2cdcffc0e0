"""Taking events and broadcasts: match the topic, run the handlers, acknowledge or ask for another delivery."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from fabric.context import CallContext, enter
from fabric.contract import HandlerContract, ServiceContract, problems
from fabric.errors import FabricError, InvalidMessage
from fabric.tasks import Tasks
from fabric.transports.base import Consumer, Delivery, Transport
from fabric.transports.topology import Topology
from fabric.wire import batch, codec
from fabric.wire.message import ServiceMessage

_log = logging.getLogger("fabric.subscriber")

MAX_BROADCASTS = 1000


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


class Subscriber:
    """Runs the event and broadcast handlers of one service in this process. Owned by a hub."""

    def __init__(self, transport: Transport, topology: Topology, contract: ServiceContract, service: object) -> None:
        self._transport, self._topology, self._contract, self._service = transport, topology, contract, service
        self._consumers: list[Consumer] = []
        self._tasks = Tasks(f"{contract.name} events")
        self.handled = self.failed = self.invalid = self.dropped_broadcasts = 0

    async def open(self, timeout: float) -> None:
        for group, handlers in self._contract.groups.items():
            first = handlers[0].options
            assert first is not None
            patterns = tuple(dict.fromkeys(pattern for handler in handlers for pattern in handler.patterns))
            queue = self._topology.event_group(
                self._contract.name,
                patterns,
                group=group,
                prefetch=max(h.options.concurrency for h in handlers if h.options is not None),
                max_attempts=first.max_attempts,
                retry_delays=first.retry_delays,
            )
            self._consumers.append(await self._transport.consume(queue, self._receiver(handlers), timeout=timeout))
        if self._contract.broadcasts:
            self._consumers.append(
                await self._transport.consume(self._topology.broadcasts(), self._receive_broadcast, timeout=timeout)
            )

    def _receiver(self, handlers: Sequence[HandlerContract]) -> Callable[[Delivery], None]:
        def receive(delivery: Delivery) -> None:
            self._tasks.start(self._handle(delivery, handlers), f"event {delivery.key}")

        return receive

    async def _handle(self, delivery: Delivery, handlers: Sequence[HandlerContract]) -> None:
        try:
            message = codec.decode(delivery.body, delivery.content_type)
        except InvalidMessage as error:
            self.invalid += 1
            await self._give_up(delivery, str(error))
            return
        enter(_context(message, delivery))
        try:
            for handler in handlers:
                if any(matches(pattern, message.method) for pattern in handler.patterns):
                    await self._call(handler, message.payload)
        except ValidationError as error:
            self.invalid += 1
            await self._give_up(delivery, f"does not fit the handler: {problems(error)[:3]}")
        except Exception as error:
            self.failed += 1
            _log.warning("%s could not handle %s: %r", self._contract.name, message.method, error)
            try:
                await delivery.retry(f"{type(error).__name__}: {error}")
            except FabricError as problem:
                _log.warning("retry of %s: %s; the broker delivers it again", message.method, problem)
        else:
            self.handled += 1
            delivery.ack()

    async def _give_up(self, delivery: Delivery, reason: str) -> None:
        """What can't be read now can't be read later."""
        _log.warning("%s dead-letters an event %s: %s", self._contract.name, delivery.key, reason)
        try:
            await delivery.reject(reason)
        except FabricError as error:
            _log.warning("dead-lettering %s: %s; the broker delivers it again", delivery.key, error)

    def _receive_broadcast(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            if isinstance(message, InvalidMessage):
                self.invalid += 1
                continue
            for handler in self._contract.broadcasts:
                if any(matches(topic, message.method) for topic in handler.patterns):
                    if len(self._tasks) >= MAX_BROADCASTS:
                        self.dropped_broadcasts += 1
                        continue
                    self._tasks.start(self._broadcast(handler, message, delivery), f"broadcast {message.method}")

    async def _broadcast(self, handler: HandlerContract, message: ServiceMessage, delivery: Delivery) -> None:
        enter(_context(message, delivery))
        try:
            await self._call(handler, message.payload)
            self.handled += 1
        except Exception as error:
            self.failed += 1
            _log.warning("%s could not handle the broadcast %s: %r", self._contract.name, message.method, error)

    async def _call(self, handler: HandlerContract, payload: Any) -> None:
        await getattr(self._service, handler.attribute)(**handler.arguments.read(payload))

    async def drain(self, timeout: float) -> bool:
        """Take no more and let what runs end; what does not is cancelled, and its events are delivered again elsewhere."""
        for consumer in self._consumers:
            await consumer.aclose()
        done = await self._tasks.wait(timeout)
        await self._tasks.aclose()
        return done


def _context(message: ServiceMessage, delivery: Delivery) -> CallContext:
    return CallContext(
        id=message.id,
        source=message.source,
        instance=message.instance,
        method=message.method,
        deadline=None,
        attempt=delivery.attempt,
        priority=message.priority,
        user=delivery.user_id,
        headers=message.headers or {},
    )
