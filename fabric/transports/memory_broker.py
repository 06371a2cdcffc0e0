"""A whole broker in this process: exchanges, queues, retries and dead letters, as RabbitMQ has them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from fabric.clock import Clock
from fabric.errors import ConfigurationError, InvalidMessage, NoRoute, TopologyConflict
from fabric.transports.alarm import Alarm
from fabric.transports.backlog import OVERHEAD, Held, Published
from fabric.transports.base import ExchangeKind
from fabric.transports.dead_letters import DeadLetters
from fabric.transports.delays import check_delay
from fabric.transports.exchange import Exchange
from fabric.transports.headers import without_reserved
from fabric.transports.memory_queue import Queue
from fabric.transports.timers import Timers
from fabric.transports.topology import former
from fabric.wire.batch import BATCH, split_stored
from fabric.wire.codec import MSGPACK
from fabric.wire.message import MessageIds, Priority


class Outcome(enum.IntEnum):
    """What became of a publish. The numbers are on the wire of the embedded broker."""

    TAKEN = 0
    NO_ROUTE = 1
    FULL = 2


class Broker:
    """The state that all links share. Nothing here waits, and nothing calls a receiver: sessions only note deliveries.

    Args:
        clock: for expiry, retries and the times of dead letters.
        most_bytes: bytes held in all queues at which the alarm goes on.
        most_queue_bytes: bytes that one exclusive queue holds before it refuses, so that a reader that stopped does not
            stop all others.
        alarmed: called with the reason when publishes must stop, with "" when they may go on.
    """

    def __init__(self, clock: Clock, *, most_bytes: int, most_queue_bytes: int, alarmed: Callable[[str], None]) -> None:
        self.clock = clock
        self.alarm = Alarm(most_bytes, alarmed)
        self.timers = Timers(clock)
        self.dead_letters = DeadLetters(self.alarm)
        self._most_queue_bytes = most_queue_bytes
        self._exchanges: dict[str, Exchange[Queue]] = {}
        self._queues: dict[str, Queue] = {}
        self._names = MessageIds()

    def declare_exchange(self, name: str, kind: ExchangeKind) -> None:
        """Idempotent.

        Raises:
            TopologyConflict: it exists with another kind.
        """
        known = self._exchanges.setdefault(name, Exchange(name, kind))
        if known.kind is not kind:
            raise TopologyConflict(name, f"it is a {known.kind} exchange, not {kind}")

    def exchange(self, name: str) -> Exchange[Queue]:
        """
        Raises:
            ConfigurationError: there is none of this name.
        """
        if name not in self._exchanges:
            raise ConfigurationError(f"the broker has no exchange {name!r}: is the namespace right?")
        return self._exchanges[name]

    def queue(self, name: str) -> Queue | None:
        return self._queues.get(name)

    def declare_queue(self, name: str | None, owner: object, *, durable: bool, max_attempts: int, single: bool = False) -> Queue:
        """The queue of this name, made if there is none; with None it is named here, and unguessable.

        Raises:
            TopologyConflict: it exists with other properties, or exclusive to another link.
        """
        name = name or f"gen-{self._names.next()}"
        known = self._queues.get(name)
        if known is None:
            known = self._queues[name] = Queue(
                name,
                owner=None if durable else owner,
                max_attempts=max_attempts if durable else None,
                single=single,
                most_bytes=None if durable else self._most_queue_bytes,
                alarm=self.alarm,
                now=self.clock.monotonic,
            )
        elif durable and known.max_attempts != max_attempts:
            there = "exclusive" if known.owner else f"durable with max_attempts {known.max_attempts}"
            raise TopologyConflict(name, f"there it is {there}, here durable with max_attempts {max_attempts}")
        elif known.single != single:
            raise TopologyConflict(name, f"there it has {'a single consumer' if known.single else 'all its consumers'} at a time")
        elif not durable and known.owner is not owner:
            raise TopologyConflict(name, "another link holds it exclusively" if known.owner else "it is durable there")
        return known

    def delete_queue(self, name: str) -> bool:
        """With what it holds; its consumers are cancelled. False: there is none."""
        queue = self._queues.pop(name, None)
        if queue is not None:
            queue.delete()
        return queue is not None

    def take_over(self, name: str) -> None:
        """What the former queue of a group holds that is ordered from now on, or is not any more: it goes to the queue ``name``
        once nobody consumes it there any more."""
        queue, old = self._queues.get(name), self._queues.get(former(name))
        if queue is None or queue.owner is not None or not queue.takers:
            return
        if old is not None and old.owner is None and not old.takers:
            del self._queues[old.name]
            old.hand_over(queue)

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        priority: Priority,
        content_type: str,
        headers: Mapping[str, Any] | None,
        message_id: str | None,
        user_id: str | None,
        expires: float | None,
        delay: float | None = None,
    ) -> Outcome:
        """To all queues bound there, after ``delay`` seconds. ``FULL`` when some are, and all of them refused.

        Raises:
            ValueError: the delay is not one.
        """
        if delay is not None:
            check_delay(delay, expires=expires, mandatory=False)
            due = partial(self.publish, exchange, key, body, priority, content_type, headers, message_id, user_id, None)
            self._keep(len(body) + OVERHEAD, delay, due)
            return Outcome.TAKEN
        if not exchange:
            queue = self._queues.get(key)
            targets: Collection[Queue] = (queue,) if queue else ()
        else:
            known = self._exchanges.get(exchange)
            targets = known.route(key) if known else ()
        if not targets:
            return Outcome.NO_ROUTE
        message = Published(
            exchange,
            key,
            body,
            content_type,
            priority,
            message_id,
            without_reserved(headers) if headers else {},
            user_id,
            None if expires is None else self.clock.monotonic() + expires,
        )
        taken = False
        for queue in targets:
            for single in _singles(message) if queue.owner is None else (message,):
                taken = queue.accept(single) or taken
        return Outcome.TAKEN if taken else Outcome.FULL

    def give_back(self, queue: Queue, held: Held, *, instance: str) -> None:
        """It was delivered to ``instance`` and never settled: to its place again, or dead-lettered after its last attempt."""
        self._note_failure(held, "its consumer was lost", instance)
        if queue.max_attempts is not None and held.attempt >= queue.max_attempts:
            self._bury(queue, held, "its consumer was lost")
        else:
            queue.restore(held)

    def retry(self, queue: Queue, held: Held, *, reason: str, instance: str, delays: tuple[float, ...]) -> None:
        """To the end of its queue after the next of ``delays`` in seconds, or dead-lettered after its last attempt."""
        self._note_failure(held, reason, instance)
        if queue.max_attempts is None:
            return
        if held.attempt >= queue.max_attempts:
            self._bury(queue, held, reason)
            return
        delay = delays[min(held.attempt, len(delays)) - 1] if delays else 0.0

        def again() -> None:
            self._queues.get(queue.name, queue).append(held)

        self._keep(held.size, delay, again)

    def reject(self, queue: Queue, held: Held, *, reason: str, instance: str) -> None:
        """Dead-lettered at once."""
        self._note_failure(held, reason, instance)
        if queue.max_attempts is not None:
            self._bury(queue, held, reason)

    def replay(self, queue: str, id: str) -> bool:
        """
        Raises:
            NoRoute: the queue is gone; the dead letter stays.
        """
        if all(letter.id != id for letter in self.dead_letters.of(queue)):
            return False
        target = self._queues.get(queue)
        if target is None:
            raise NoRoute("", queue)
        held = self.dead_letters.take(queue, id)
        assert held is not None
        target.append(Held(held.message._replace(expires_at=None)))
        return True

    def _keep(self, size: int, seconds: float, then: Callable[[], object]) -> None:
        """Hold something of ``size`` bytes, which counts for the alarm, and run ``then``."""
        self.alarm.hold(size)

        def end() -> None:
            self.alarm.release(size)
            then()

        self.timers.call_later(seconds, end)

    def _bury(self, queue: Queue, held: Held, reason: str) -> None:
        self.dead_letters.add(queue.name, held, reason=reason, at=self.clock.time())

    def _note_failure(self, held: Held, reason: str, instance: str) -> None:
        held.history = (*held.history, {"at": self.clock.time(), "reason": reason, "instance": instance})


def _singles(message: Published) -> Sequence[Published]:
    """What a durable queue keeps of a message: the parts of a batch are settled, tried again and given up one by one."""
    if message.content_type != BATCH:
        return (message,)
    try:
        bodies = split_stored(message.body)
    except InvalidMessage:
        return (message,)
    return [message._replace(body=body, content_type=MSGPACK, message_id=None) for body in bodies]
