"""One consuming channel: what comes on it, and how that is settled while it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiormq.channel import Channel

from fabric.errors import FabricError
from fabric.transports import amqp_durable, amqp_frames
from fabric.transports.amqp_acks import Acks
from fabric.transports.amqp_delivery import AmqpDelivery, Settled
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_moves import Mover
from fabric.transports.amqp_parts import SUSPECT, AmqpPart, Remembered, Single, Whole
from fabric.transports.amqp_places import Places
from fabric.transports.base import QueueSpec, Receiver
from fabric.wire.batch import BATCH

_log = logging.getLogger("fabric.transports.amqp")

_MOST_PRIORITY = 3
_MOST_KNOWN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeOrders:
    """What a subscription wants of its channel, in each epoch the same.

    Attributes:
        spec: the queue.
        receiver: who gets the deliveries.
        ours: our user, as the broker knows it.
        mover: where failed ones go.
        done: of bodies that were open when a link was lost.
        start: runs something in the background.
    """

    spec: QueueSpec
    receiver: Receiver
    ours: str | None
    mover: Mover
    done: Remembered
    start: Callable[[Coroutine[Any, Any, None], str], None]


class Intake:
    """The lane of a consuming channel.

    Args:
        orders: what is wanted.
        link: to consume on.
        held: keep what comes until ``release``.
        lost: called with the reason when the broker ends the consumer or its channel.
    """

    def __init__(self, orders: IntakeOrders, link: Link, *, held: bool, lost: Callable[[str], None]) -> None:
        self._orders, self._link, self._lost = orders, link, lost
        self._channel: Channel | None = None
        self._tag = ""
        self.alive = True
        self._acks: Acks | None = None
        self._held: list[AmqpDelivery] | None = [] if held else None
        self._most_attempts = orders.spec.max_attempts if orders.spec.durable else 0
        self._places = Places(orders.spec.prefetch, self._begin, self._put_back) if orders.spec.durable else None
        self._wholes: dict[int, Whole] = {}
        self._known: dict[bytes, amqp_frames.Properties] = {}
        self.queue = ""

    @property
    def ours(self) -> str | None:
        return self._orders.ours

    # -- opening and closing --------------------------------------------------------------------------------------

    async def open(self, keys: Iterable[str]) -> None:
        """Declare, bind to ``keys`` and consume.

        Raises:
            ConnectionLost, ConfigurationError, TopologyConflict.
        """
        self._channel = channel = await self._link.channel(self)
        if self._orders.spec.ack:
            self._acks = Acks(self._link.wire.write, channel.number)
        try:
            self.queue = name = await self._declare(channel)
            for key in keys:
                await self.bind(key)
            await self._consume(channel, name)
        except BaseException:
            self.drop()
            await self._link.close_channel(channel)
            raise

    async def _declare(self, channel: Channel) -> str:
        spec = self._orders.spec
        if spec.durable:
            assert spec.name is not None
            dead = amqp_durable.dead_letter_queue(spec.name)
            await self._declare_durable(channel, dead, amqp_durable.dead_letter_arguments())
            await self._declare_durable(channel, spec.name, amqp_durable.queue_arguments(spec))
            return spec.name
        wanted = spec.name or ""
        answer = await self._link.ask(
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

    async def _consume(self, channel: Channel, name: str) -> None:
        spec = self._orders.spec
        if spec.ack:
            await self._link.ask(lambda: channel.basic_qos(prefetch_count=spec.prefetch), doing="setting the prefetch")
        answer = await self._link.ask(
            lambda: channel.basic_consume(name, _nobody, no_ack=not spec.ack), doing=f"consuming {name!r}", name=name
        )
        self._tag = answer.consumer_tag or ""

    async def bind(self, key: str) -> None:
        channel, exchange = self._channel, self._orders.spec.exchange
        assert channel is not None
        if exchange:
            doing = f"binding {self.queue!r} to {exchange!r}"
            await self._link.ask(lambda: channel.queue_bind(self.queue, exchange, key), doing=doing)

    async def unbind(self, key: str) -> None:
        channel, exchange = self._channel, self._orders.spec.exchange
        assert channel is not None
        if exchange:
            doing = f"unbinding {self.queue!r} from {exchange!r}"
            await self._link.ask(lambda: channel.queue_unbind(self.queue, exchange, key), doing=doing)

    async def close(self) -> None:
        """Stop receiving; what is under way may still be settled. Never raises."""
        channel = self._channel
        if channel is None or not self.alive:
            return
        waited = self._places.close() if self._places is not None else []
        if self._orders.spec.single:
            # A cancelled consumer keeps what it has, and the next one would begin behind that. What was done of a body that is
            # still open would be done again there, so the rest of it goes back by itself.
            begun = [part for whole in self._wholes.values() if whole.done for part in whole.parts if not part.settled]
            await self._put_all_back(begun)
            await self._leave(channel)
            return
        try:
            await self._link.ask(lambda: channel.basic_cancel(self._tag), doing="ending a consumer")
            self._put_back(waited)
            if not self._orders.spec.durable:
                await self._link.ask(lambda: channel.queue_delete(self.queue), doing=f"deleting the queue {self.queue!r}")
        except FabricError as error:
            _log.info("closing the consumer of %r: %s", self.queue, error)
        if self._acks is not None and len(self._acks):
            self._orders.start(self._linger(channel, self._acks), "settle the last deliveries")
        else:
            await self._leave(channel)

    async def _linger(self, channel: Channel, acks: Acks) -> None:
        settled = asyncio.ensure_future(acks.idle.wait())
        waits: set[asyncio.Future[Any]] = {settled, self._link.lost}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()
        await self._leave(channel)

    async def _leave(self, channel: Channel) -> None:
        if self._acks is not None:
            self._acks.flush()
        self.drop()
        await self._link.close_channel(channel)

    def release(self) -> None:
        """Hand over what came before the new epoch was told, and from now on at once."""
        held, self._held = self._held or [], None
        for delivery in held:
            self._hand_over(delivery)

    def drop(self) -> None:
        """Nothing may be settled any more."""
        self.alive = False
        self._held = None
        if self._places is not None:
            self._places.drop()
        for whole in self._wholes.values():
            self._orders.done.keep(whole)
        self._wholes.clear()
        if self._acks is not None:
            self._acks.close()

    async def replace(self, link: Link) -> None:
        """Another one takes over on ``link``. Never raises."""
        self.drop()
        if link is self._link and self._channel is not None:
            await link.close_channel(self._channel)

    # -- as a lane ------------------------------------------------------------------------------------------------

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        tag, redelivered = amqp_frames.read_tag(method)
        delivery = AmqpDelivery(self, tag, redelivered, method, self._properties(header), body)
        if self._acks is not None:
            self._acks.add(tag)
        else:
            delivery.settled = True
        if self._held is not None:
            self._held.append(delivery)
        else:
            self._hand_over(delivery)

    def _properties(self, header: bytes) -> amqp_frames.Properties:
        """Answers all look the same, and so do heartbeats: what was read once need not be read again."""
        known = self._known.get(header)
        if known is None:
            known = amqp_frames.read_properties(header)
            if known.message_id is None and not known.headers and len(self._known) < _MOST_KNOWN:
                self._known[header] = known
        return known

    def _hand_over(self, delivery: AmqpDelivery) -> None:
        if self._places is None:
            self._begin(delivery)
        elif delivery.content_type == BATCH and (whole := self._orders.done.split(delivery)) is not None:
            self._hand_over_parts(delivery, whole)
        elif delivery.attempt > self._most_attempts:
            self._orders.start(self._give_up_late(delivery), "dead-letter")
        else:
            self._places.take(delivery)

    def _hand_over_parts(self, delivery: AmqpDelivery, whole: Whole) -> None:
        if not whole.parts:
            self._finish(delivery, stored=True)
            return
        self._wholes[delivery.tag] = whole
        assert self._places is not None
        if delivery.attempt > self._most_attempts:
            for part in whole.parts:
                self._orders.start(self._give_up_late(part), "dead-letter")
        elif delivery.attempt >= min(SUSPECT, self._most_attempts) > 1:
            self._put_back(whole.parts)
        else:
            for part in whole.parts:
                self._places.take(part)

    def _begin(self, delivery: Single) -> None:
        try:
            self._orders.receiver(delivery)
        except Exception:
            _log.exception("the receiver of %r failed", self.queue)

    async def _give_up_late(self, delivery: Single) -> None:
        if self.alive and _claim(delivery):
            most = self._most_attempts
            reason = f"given up after {most} deliveries; nobody settled the last one"
            self._finish(delivery, stored=await self._give_up(delivery, reason, most))

    def _put_back(self, parts: Sequence[AmqpPart]) -> None:
        if parts:
            self._orders.start(self._put_all_back(parts), "give messages back")

    async def _put_all_back(self, parts: Sequence[AmqpPart]) -> None:
        """Each alone, so that others may take them."""
        await asyncio.gather(*(self._put_one_back(part) for part in parts))

    async def _put_one_back(self, part: AmqpPart) -> None:
        if self.alive and _claim(part):
            orders = self._orders
            self._finish(part, stored=await orders.mover.put_back(self._link, orders.spec, part))

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        return

    def on_fence(self) -> bool:
        return False

    def on_cancel(self) -> None:
        self._end("the broker cancelled it: its queue was deleted or moved")

    def on_close(self, code: int, reason: str) -> None:
        self._end(f"the broker closed its channel: {code} {reason}")

    def _end(self, reason: str) -> None:
        was_alive = self.alive
        self.drop()
        if was_alive:
            self._lost(reason)

    # -- settling -------------------------------------------------------------------------------------------------

    def ack(self, delivery: Settled) -> None:
        if _claim(delivery):
            self._end_one(delivery, stored=True)

    async def retry(self, delivery: Settled, reason: str) -> None:
        if self.alive and _claim(delivery):
            orders = self._orders
            stored = not orders.spec.durable or await orders.mover.retry(self._link, orders.spec, delivery, reason)
            self._end_one(delivery, stored=stored)

    async def reject(self, delivery: Settled, reason: str) -> None:
        if self.alive and _claim(delivery):
            self._end_one(delivery, stored=await self._give_up(delivery, reason, delivery.attempt))

    async def _give_up(self, delivery: Settled, reason: str, attempts: int) -> bool:
        spec, mover = self._orders.spec, self._orders.mover
        return not spec.durable or await mover.give_up(self._link, spec, delivery, reason, attempts=attempts)

    def _end_one(self, delivery: Settled, *, stored: bool) -> None:
        """One that a receiver had."""
        self._finish(delivery, stored=stored)
        if self._places is not None:
            self._places.leave()

    def _finish(self, delivery: Settled, *, stored: bool) -> None:
        """Acknowledge the body that it came in, or give it back to its queue, when that is settled."""
        whole_stored = delivery.settle(stored=stored)
        if self._acks is None or whole_stored is None:
            return
        self._wholes.pop(delivery.tag, None)
        if whole_stored:
            self._acks.ack(delivery.tag)
        else:
            self._acks.requeue(delivery.tag)


def _claim(delivery: Settled) -> bool:
    """Whoever settles it first settles it."""
    if delivery.settled:
        return False
    delivery.settled = True
    return True


async def _nobody(message: object) -> None:
    """Deliveries go to the lane; aiormq only needs to know the tag."""
