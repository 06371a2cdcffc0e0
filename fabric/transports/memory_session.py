"""The broker's end of one link: its consumers, its exclusive queues and what it has not acknowledged."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fabric.errors import InvalidMessage
from fabric.transports.backlog import Held
from fabric.transports.base import DeadLetter, ExchangeKind, QueueSpec
from fabric.transports.memory_broker import Broker, Outcome
from fabric.transports.memory_queue import Queue
from fabric.transports.topology import former
from fabric.wire.message import Priority

_MOST_REASON = 2_000
_MOST_PAGE_BYTES = 1024 * 1024
_PRIORITIES = tuple(Priority)


class Verb(enum.IntEnum):
    """What a link may ask for and is answered. The numbers are on the wire of the embedded broker."""

    DECLARE = 1
    CONSUME = 2
    CANCEL = 3
    BIND = 4
    UNBIND = 5
    RETRY = 6
    REJECT = 7
    DEAD_LETTERS = 8
    REPLAY = 9
    DISCARD = 10
    PING = 11


class Carrier(Protocol):
    """What takes the broker's words to the client, and what faults are done to. None of it calls back at once."""

    def deliver(self, consumer: int, tag: int, held: Held) -> None:
        """``tag`` names it for settling; 0 needs none."""
        ...

    def cancelled(self, consumer: int) -> None:
        """Its queue was deleted."""
        ...

    def blocked(self, reason: str) -> None:
        """Publishes must stop; "" says that they may go on."""
        ...

    def sever(self, reason: str) -> None:
        """Break the link, so that both ends notice."""
        ...

    def pause(self) -> None:
        """Let nothing pass and tell nobody."""
        ...

    def resume(self) -> None: ...


class Subscription:
    """One consumer on one queue."""

    __slots__ = ("ack", "id", "in_flight", "prefetch", "queue", "retry_delays", "session")

    def __init__(
        self, session: Session, id: int, queue: Queue, *, ack: bool, prefetch: int, retry_delays: tuple[float, ...]
    ) -> None:
        self.session, self.id, self.queue = session, id, queue
        self.ack, self.prefetch, self.retry_delays = ack, prefetch, retry_delays
        self.in_flight = 0

    @property
    def ready(self) -> bool:
        return not self.session.stalled and (not self.ack or self.in_flight < self.prefetch)

    def take(self, held: Held) -> None:
        self.session.deliver(self, held)

    def cancelled(self) -> None:
        self.session.cancelled(self)


class Session:
    """Dies with its link: exclusive queues go, unacknowledged messages return to their queues.

    Args:
        client: names the transport at the other end.
        instance: written into the history of failures.
        user: what the broker vouches for as ``user_id`` of its messages.
        ended: called once, when it is closed.
    """

    def __init__(
        self,
        broker: Broker,
        carrier: Carrier,
        *,
        client: str,
        instance: str,
        user: str | None,
        ended: Callable[[Session], None],
    ) -> None:
        self.carrier, self.client, self.instance, self.user = carrier, client, instance, user
        self.stalled = False
        self._broker, self._ended = broker, ended
        self._closed = False
        self._subscriptions: dict[int, Subscription] = {}
        self._exclusive: dict[str, Queue] = {}
        self._unacked: dict[int, tuple[Subscription, Held]] = {}
        self._tag = 0
        self._verbs: dict[Verb, Callable[..., Any]] = {
            Verb.DECLARE: self._declare,
            Verb.CONSUME: self._consume,
            Verb.CANCEL: self._cancel,
            Verb.BIND: self._bind,
            Verb.UNBIND: self._unbind,
            Verb.RETRY: self._retry,
            Verb.REJECT: self._reject,
            Verb.DEAD_LETTERS: self._dead_letters,
            Verb.REPLAY: broker.replay,
            Verb.DISCARD: self._discard,
            Verb.PING: self._ping,
        }

    def perform(self, verb: int, arguments: Sequence[Any]) -> Any:
        """Do what the link asks for.

        Raises:
            InvalidMessage: a consumer of this number exists.
            TypeError, ValueError, AttributeError: a verb or arguments that do not fit.
            TopologyConflict, ConfigurationError, NoRoute: refused.
        """
        return self._verbs[Verb(verb)](*arguments)

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        priority: int,
        content_type: str,
        headers: Mapping[str, Any] | None,
        message_id: str | None,
        expires: float | None,
        delay: float | None,
    ) -> Outcome:
        return self._broker.publish(
            exchange, key, body, _PRIORITIES[priority], content_type, headers, message_id, self.user, expires, delay
        )

    def deliver(self, subscription: Subscription, held: Held) -> None:
        held.attempt += 1
        if not subscription.ack:
            self.carrier.deliver(subscription.id, 0, held)
            return
        self._tag += 1
        subscription.in_flight += 1
        self._unacked[self._tag] = subscription, held
        self._broker.alarm.hold(held.size)
        self.carrier.deliver(subscription.id, self._tag, held)

    def cancelled(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.id, None)
        self._exclusive.pop(subscription.queue.name, None)
        self.carrier.cancelled(subscription.id)

    def ack(self, tag: int) -> None:
        """Done with it. Does nothing for an unknown tag."""
        if (settled := self._settle(tag)) is not None:
            settled[0].queue.pump()

    def release(self, tag: int) -> None:
        """It never reached a receiver: as if it had not been delivered."""
        if (settled := self._settle(tag)) is not None:
            subscription, held = settled
            held.attempt -= 1
            subscription.queue.restore(held)
            subscription.queue.pump()

    def stall(self, stalled: bool) -> None:
        """While stalled nothing more is delivered: the client does not read."""
        self.stalled = stalled
        if not stalled:
            for subscription in list(self._subscriptions.values()):
                if self.stalled:
                    return
                subscription.queue.pump()

    def close(self) -> None:
        """The link is gone. Idempotent."""
        if self._closed:
            return
        self._closed = True
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.queue.remove(subscription)
        for name in list(self._exclusive):
            self._broker.delete_queue(name)
        self._exclusive.clear()
        queues = {subscription.queue for subscription, _ in self._unacked.values()}
        self._give_back(list(self._unacked))
        for queue in queues:
            queue.pump()
        for subscription in subscriptions.values():
            self._broker.take_over(former(subscription.queue.name))
        self._ended(self)

    def _give_back(self, tags: Sequence[int]) -> None:
        """To their places, the latest first so that they end up in order."""
        for tag in reversed(tags):
            settled = self._settle(tag)
            assert settled is not None
            self._broker.give_back(settled[0].queue, settled[1], instance=self.instance)

    def _settle(self, tag: int) -> tuple[Subscription, Held] | None:
        settled = self._unacked.pop(tag, None)
        if settled is not None:
            settled[0].in_flight -= 1
            self._broker.alarm.release(settled[1].size)
        return settled

    def _declare(self, exchanges: Sequence[tuple[str, str]]) -> None:
        for name, kind in exchanges:
            self._broker.declare_exchange(name, ExchangeKind(kind))

    def _consume(
        self,
        id: int,
        name: str | None,
        exchange: str,
        keys: Sequence[str],
        durable: bool,
        ack: bool,
        prefetch: int,
        max_attempts: int,
        retry_delays: Sequence[float],
        single: bool = False,
    ) -> str:
        if id in self._subscriptions:
            raise InvalidMessage(f"consumer {id} exists")
        delays = tuple(map(float, retry_delays))
        QueueSpec(name=name, durable=durable, ack=ack, prefetch=prefetch, max_attempts=max_attempts, single=single)
        bound_to = self._broker.exchange(exchange) if exchange else None
        queue = self._broker.declare_queue(name, self, durable=durable, max_attempts=max_attempts, single=single)
        if not durable:
            self._exclusive[queue.name] = queue
        if bound_to is not None:
            for key in keys:
                queue.bind(bound_to, key)
        subscription = Subscription(self, id, queue, ack=ack, prefetch=prefetch, retry_delays=delays)
        self._subscriptions[id] = subscription
        queue.add(subscription)
        queue.pump()
        self._broker.take_over(queue.name)
        return queue.name

    def _cancel(self, id: int) -> None:
        subscription = self._subscriptions.pop(id, None)
        if subscription is None:
            return
        queue = subscription.queue
        queue.remove(subscription)
        if queue.single:
            self._give_back([tag for tag, (holder, _) in self._unacked.items() if holder is subscription])
            queue.pump()
        if queue.owner is self and not queue.takers:
            self._exclusive.pop(queue.name, None)
            self._broker.delete_queue(queue.name)
        self._broker.take_over(former(queue.name))

    def _bind(self, id: int, exchange: str, key: str) -> None:
        # A consumer that is not there was cancelled just now: the client makes it anew with all its keys.
        if (subscription := self._subscriptions.get(id)) is not None:
            subscription.queue.bind(self._broker.exchange(exchange), key)

    def _unbind(self, id: int, exchange: str, key: str) -> None:
        if (subscription := self._subscriptions.get(id)) is not None:
            subscription.queue.unbind(self._broker.exchange(exchange), key)

    def _retry(self, tag: int, reason: str) -> None:
        if (settled := self._settle(tag)) is not None:
            subscription, held = settled
            self._broker.retry(
                subscription.queue,
                held,
                reason=reason[:_MOST_REASON],
                instance=self.instance,
                delays=subscription.retry_delays,
            )
            subscription.queue.pump()

    def _reject(self, tag: int, reason: str) -> None:
        if (settled := self._settle(tag)) is not None:
            subscription, held = settled
            self._broker.reject(subscription.queue, held, reason=reason[:_MOST_REASON], instance=self.instance)
            subscription.queue.pump()

    def _dead_letters(self, queue: str, skip: int, limit: int) -> list[DeadLetter]:
        """One page: at least one if there are more than ``skip``, and no more than about a mebibyte."""
        page: list[DeadLetter] = []
        size = 0
        for at, letter in enumerate(self._broker.dead_letters.of(queue)):
            if at < skip:
                continue
            if len(page) >= limit or size > _MOST_PAGE_BYTES:
                break
            page.append(letter)
            size += len(letter.body)
        return page

    def _discard(self, queue: str, id: str) -> bool:
        return self._broker.dead_letters.take(queue, id) is not None

    def _ping(self) -> None:
        """Its answer is all there is to it."""
