"""A subscription over all epochs, and its channel in one of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from aiormq.channel import Channel

from fabric.clock import Clock
from fabric.errors import ConnectionLost, FabricError, NoRoute, TransportClosed
from fabric.transports import amqp_durable, amqp_frames
from fabric.transports.amqp_delivery import AmqpDelivery
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_publisher import Publisher
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.base import QueueSpec, Receiver

_log = logging.getLogger("fabric.transports.amqp")

_SETTLE_SECONDS = 5.0
_MOST_PRIORITY = 3


class Home(Protocol):
    """What a subscription needs of its transport."""

    @property
    def settings(self) -> AmqpSettings: ...
    @property
    def publisher(self) -> Publisher: ...
    @property
    def clock(self) -> Clock: ...

    async def link(self, *, timeout: float) -> Link:
        """The link to consume on, when it is up."""
        ...

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run it in the background."""
        ...

    def lost_consumer(self, subscription: Subscription, reason: str) -> None:
        """The broker ended it: restore it."""
        ...

    def forget(self, subscription: Subscription) -> None:
        """It is closed: do not restore it."""
        ...


class Intake:
    """The lane of one consuming channel: takes deliveries while it lives, and settles only its own."""

    def __init__(self, subscription: Subscription, link: Link, *, held: bool) -> None:
        self._subscription, self._link = subscription, link
        self._channel: Channel | None = None
        self.alive = True
        self.unsettled = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._held: list[AmqpDelivery] | None = [] if held else None
        self._ack = subscription.spec.ack
        self._most_attempts = subscription.spec.max_attempts if subscription.spec.durable else 0

    @property
    def ours(self) -> str | None:
        return self._subscription.home.settings.vouched_user

    async def open(self) -> str:
        """Declare, bind and consume. Returns the name of the queue.

        Raises:
            ConnectionLost, ConfigurationError, TopologyConflict.
        """
        link, spec = self._link, self._subscription.spec
        self._channel = channel = await link.channel(self)
        try:
            name = await self._declare(channel)
            for key in tuple(self._subscription.keys):
                await self.bind(name, key)
            if spec.ack:
                await link.ask(lambda: channel.basic_qos(prefetch_count=spec.prefetch), doing="setting the prefetch")
            await link.ask(
                lambda: channel.basic_consume(name, _nobody, no_ack=not spec.ack), doing=f"consuming {name!r}", name=name
            )
        except BaseException:
            self.alive = False
            await link.close_channel(channel)
            raise
        return name

    async def _declare(self, channel: Channel) -> str:
        link, spec = self._link, self._subscription.spec
        if spec.durable:
            assert spec.name is not None
            dead = amqp_durable.dead_letter_queue(spec.name)
            await self._declare_durable(channel, dead, amqp_durable.dead_letter_arguments())
            await self._declare_durable(channel, spec.name, amqp_durable.queue_arguments(spec))
            return spec.name
        wanted = spec.name or ""
        answer = await link.ask(
            lambda: channel.queue_declare(wanted, exclusive=True, arguments={"x-max-priority": _MOST_PRIORITY}),
            doing=f"declaring the queue {wanted!r}",
            name=wanted,
        )
        return str(answer.queue)

    async def _declare_durable(self, channel: Channel, name: str, arguments: dict[str, Any]) -> None:
        await self._link.ask(
            lambda: channel.queue_declare(name, durable=True, arguments=arguments),
            doing=f"declaring the queue {name!r}",
            name=name,
        )

    async def bind(self, queue: str, key: str) -> None:
        channel, exchange = self._channel, self._subscription.spec.exchange
        assert channel is not None
        if exchange:
            await self._link.ask(
                lambda: channel.queue_bind(queue, exchange, key), doing=f"binding {queue!r} to {exchange!r}", name=exchange
            )

    async def unbind(self, queue: str, key: str) -> None:
        channel, exchange = self._channel, self._subscription.spec.exchange
        assert channel is not None
        if exchange:
            await self._link.ask(
                lambda: channel.queue_unbind(queue, exchange, key), doing=f"unbinding {queue!r} from {exchange!r}"
            )

    async def close(self, queue: str) -> None:
        """Stop receiving; what is under way may still be settled for a while. Never raises."""
        channel, spec = self._channel, self._subscription.spec
        if channel is None or not self.alive:
            return
        try:
            for tag in tuple(channel.consumers):
                await self._link.ask(lambda tag=tag: channel.basic_cancel(tag), doing="ending a consumer")  # type: ignore[misc]
            if not spec.durable:
                await self._link.ask(lambda: channel.queue_delete(queue), doing=f"deleting the queue {queue!r}")
        except FabricError as error:
            _log.info("closing the consumer of %r: %s", queue, error)
        if self.unsettled:
            self._subscription.home.start(self._linger(channel), "settle the last deliveries")
        else:
            await self._linger(channel)

    async def _linger(self, channel: Channel) -> None:
        await self.idle.wait()
        self.alive = False
        await self._link.close_channel(channel)

    def release(self) -> None:
        """Hand over what came before the new epoch was told, and from now on at once."""
        held, self._held = self._held or [], None
        for delivery in held:
            self._hand_over(delivery)

    def drop(self) -> None:
        """The link is gone: nothing may be settled any more."""
        self.alive = False
        self._held = None
        self.idle.set()

    # -- as a lane ------------------------------------------------------------------------------------------------

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        offset = 5 + method[4]
        (tag,) = amqp_frames.LONG_LONG.unpack_from(method, offset)
        exchange, end = amqp_frames.read_short_string(method, offset + 9)
        key, _ = amqp_frames.read_short_string(method, end)
        delivery = AmqpDelivery(self, tag, bool(method[offset + 8]), exchange, key, header, body)
        if self._ack:
            self.unsettled += 1
            self.idle.clear()
        else:
            delivery.settled = True
        if self._held is not None:
            self._held.append(delivery)
        else:
            self._hand_over(delivery)

    def _hand_over(self, delivery: AmqpDelivery) -> None:
        if self._most_attempts and delivery.attempt > self._most_attempts:
            reason = f"given up after {self._most_attempts} deliveries; nobody settled the last one"
            self._subscription.home.start(self.reject(delivery, reason), "dead-letter")
            return
        try:
            self._subscription.receiver(delivery)
        except Exception:
            _log.exception("the receiver of %r failed", self._subscription.address)

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        return

    def on_cancel(self) -> None:
        self.alive = False
        self._subscription.home.lost_consumer(self._subscription, "the broker cancelled it: its queue was deleted or moved")

    def on_close(self, code: int, reason: str) -> None:
        was_alive, self.alive = self.alive, False
        self.idle.set()
        if was_alive and self is self._subscription.intake:
            self._subscription.home.lost_consumer(self._subscription, f"the broker closed its channel: {code} {reason}")

    # -- settling -------------------------------------------------------------------------------------------------

    def ack(self, delivery: AmqpDelivery) -> None:
        if _claim(delivery):
            self._finish(delivery, requeue=False)

    def _finish(self, delivery: AmqpDelivery, *, requeue: bool) -> None:
        self.unsettled -= 1
        if self.alive and self._channel is not None:
            number, tag = self._channel.number, delivery.tag
            self._link.wire.write(amqp_frames.nack(number, tag, requeue=True) if requeue else amqp_frames.ack(number, tag))
        if not self.unsettled:
            self.idle.set()

    async def retry(self, delivery: AmqpDelivery, reason: str) -> None:
        spec = self._subscription.spec
        attempt = delivery.attempt
        if not spec.durable:
            self.ack(delivery)
        elif attempt >= spec.max_attempts:
            await self.reject(delivery, reason)
        else:
            delays = spec.retry_delays or (0.0,)
            await self._move(delivery, reason, delay=delays[min(attempt, len(delays)) - 1])

    async def reject(self, delivery: AmqpDelivery, reason: str) -> None:
        if not self._subscription.spec.durable:
            self.ack(delivery)
        else:
            await self._move(delivery, reason, delay=None)

    async def _move(self, delivery: AmqpDelivery, reason: str, *, delay: float | None) -> None:
        """Store it at its next place, then acknowledge it here. What can't be stored in time is given back to the queue."""
        if not self.alive or not _claim(delivery):
            return
        home, queue = self._subscription.home, self._subscription.spec.name
        assert queue is not None
        now = home.clock.time()
        past = delivery.carried.failed(attempts=delivery.attempt, reason=reason, at=now, instance=home.settings.name)
        if delay is None:
            place, own = amqp_durable.dead_letter_queue(queue), past.death(reason, now)
            arguments = amqp_durable.dead_letter_arguments()
        elif delay < 0.001:
            place, own, arguments = queue, past.headers(), {}
        else:
            place, own = amqp_durable.delay_queue(queue, delay), past.headers()
            arguments = amqp_durable.delay_arguments(queue, delay)
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                try:
                    await self._store(place, delivery, own)
                except NoRoute:
                    await declare_aside(self._link, place, arguments)
                    await self._store(place, delivery, own)
        except (FabricError, TimeoutError) as error:
            _log.warning("a message of %r could not be moved to %r: %s", queue, place, error)
            self._finish(delivery, requeue=True)
        else:
            self._finish(delivery, requeue=False)

    async def _store(self, place: str, delivery: AmqpDelivery, own: dict[str, Any]) -> None:
        await self._subscription.home.publisher.send(
            "",
            place,
            delivery.body,
            timeout=_SETTLE_SECONDS,
            priority=delivery.priority,
            content_type=delivery.content_type,
            headers=delivery.headers,
            own_headers=own,
            message_id=None,
            expires=None,
            mandatory=True,
            persistent=True,
        )


def _claim(delivery: AmqpDelivery) -> bool:
    """Whoever settles it first settles it."""
    if delivery.settled:
        return False
    delivery.settled = True
    return True


async def declare_aside(link: Link, name: str, arguments: dict[str, Any]) -> None:
    """Declare a durable queue on a channel of its own: a refusal kills the channel.

    Raises:
        ConnectionLost, ConfigurationError, TopologyConflict.
    """
    channel = await link.channel()
    try:
        await link.ask(
            lambda: channel.queue_declare(name, durable=True, arguments=arguments),
            doing=f"declaring the queue {name!r}",
            name=name,
        )
    finally:
        await link.close_channel(channel)


async def _nobody(message: object) -> None:
    """Deliveries go to the lane; aiormq only needs to know the tag."""


class Subscription:
    """See ``Consumer``. What is asked for holds over epochs; ``intake`` is its channel in this one."""

    def __init__(self, home: Home, spec: QueueSpec, receiver: Receiver) -> None:
        self.home, self.spec, self.receiver = home, spec, receiver
        self.keys: dict[str, None] = dict.fromkeys(spec.keys)
        self.intake: Intake | None = None
        self._address = spec.name or ""
        self._busy = asyncio.Lock()
        self._closed = False

    @property
    def address(self) -> str:
        return self._address

    @property
    def closed(self) -> bool:
        return self._closed

    async def open(self, link: Link, *, held: bool) -> None:
        """Consume on ``link``, in place of wherever it did before.

        Args:
            link: of now.
            held: keep what comes until ``release``.

        Raises:
            ConnectionLost, ConfigurationError, TopologyConflict.
        """
        async with self._busy:
            if self._closed:
                return
            before, intake = self.intake, Intake(self, link, held=held)
            if before is not None:
                before.drop()
            self._address = await intake.open()
            self.intake = intake

    def release(self) -> None:
        if self.intake is not None:
            self.intake.release()

    def drop(self) -> None:
        if self.intake is not None:
            self.intake.drop()

    async def bind(self, key: str) -> None:
        self.keys[key] = None
        await self._change(lambda intake: intake.bind(self._address, key))

    async def unbind(self, key: str) -> None:
        self.keys.pop(key, None)
        await self._change(lambda intake: intake.unbind(self._address, key))

    async def _change(self, change: Callable[[Intake], Awaitable[None]]) -> None:
        if self._closed:
            raise TransportClosed("the consumer is closed")
        await self.home.link(timeout=self.home.settings.operation_timeout)
        async with self._busy:
            intake = self.intake
            if intake is None or not intake.alive:
                raise ConnectionLost(f"{self._address!r} is being restored: the change will be part of it")
            await change(intake)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.home.forget(self)
        async with self._busy:
            if self.intake is not None:
                await self.intake.close(self._address)
