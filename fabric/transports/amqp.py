"""RabbitMQ, spoken through aiormq.

The life of a link, and what happens in each step, is here; the parts are in the modules beside this one: ``amqp_session`` has
the two connections of one epoch, ``amqp_link`` one connection, ``amqp_wire`` its socket, ``amqp_publisher`` what goes out,
``amqp_consumer`` what comes in, ``amqp_durable`` how durable queues retry and give up, ``amqp_errors`` where the errors of the
libraries stop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from fabric.clock import Clock, SystemClock
from fabric.errors import ConfigurationError, ConnectionLost, FabricError, TopologyConflict, TransportClosed
from fabric.tasks import Tasks
from fabric.transports.amqp_consumer import Subscription
from fabric.transports.amqp_dead_letters import DeadLetters
from fabric.transports.amqp_delays import Delays
from fabric.transports.amqp_errors import translate
from fabric.transports.amqp_life import LinkLife
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_moves import Mover
from fabric.transports.amqp_publisher import Publisher
from fabric.transports.amqp_session import Session
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.amqp_succession import Successions
from fabric.transports.backoff import Backoff
from fabric.transports.base import DeadLetter, LinkEvent, LinkState, QueueSpec, Receiver, Told
from fabric.transports.delays import check_delay, step
from fabric.transports.topology import Topology
from fabric.wire.message import Priority

_log = logging.getLogger("fabric.transports.amqp")

_CLOSE_SECONDS = 3.0
_REFUSED_BACKOFF = Backoff(first=1.0, most=30.0)
_SETTLING_SECONDS = 0.1
"""The broker tells of a deleted queue before it is quite gone: 4.0 then declares and forgets, 4.3 fails with 541."""

T = TypeVar("T")


class AmqpTransport:
    """See ``Transport``.

    Args:
        broker: where and how, as ``amqp[s]://user:password@host:port/vhost?option=value`` or in full.
        topology: its exchanges are declared at each connection.
        instance: who we are, for the broker's list of connections and the history of dead letters.
        clock, chance: of the waits between attempts to reconnect.
    """

    name = "amqp"

    def __init__(
        self,
        broker: str | AmqpSettings,
        topology: Topology,
        *,
        instance: str | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        settings = AmqpSettings.from_url(broker) if isinstance(broker, str) else broker
        self.settings = settings = settings if instance is None else replace(settings, name=instance)
        self.clock: Clock = clock or SystemClock()
        self.publisher = Publisher(settings)
        self.mover = Mover(self.publisher, self.clock, settings.name)
        self._topology = topology
        self._delays = Delays(self.publisher, topology)
        self._chance = chance or random.Random()
        self._life = LinkLife()
        self._tasks = Tasks("amqp transport")
        self._subscriptions: set[Subscription] = set()
        self._successions = Successions(self.publisher, self.clock, settings.vouched_user)
        self._dead_letters = DeadLetters(self.publisher, settings.vouched_user)
        self._session: Session | None = None
        self._changed = asyncio.Event()
        """Set while there is a session, and for good when there will be none."""
        self._first: asyncio.Future[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self._trouble = ""

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        return self._life.state

    @property
    def epoch(self) -> int:
        return self._life.epoch

    @property
    def max_body(self) -> int:
        return self.settings.max_body

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each state was entered, ``consumer-restored`` and ``consumer-refused``."""
        return self._life.counts

    def watch(self, listener: Callable[[LinkEvent], None]) -> Callable[[], None]:
        return self._life.watch(listener)

    # -- the life of the link -------------------------------------------------------------------------------------

    async def connect(self, *, timeout: float) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")
        if self._runner is not None:
            raise RuntimeError("connect is called once")
        self._life.enter(LinkState.CONNECTING)
        self._first = first = asyncio.get_running_loop().create_future()
        self._runner = self._tasks.start(self._run(first), "link")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(first)
        except BaseException as error:
            await self._stop_runner()
            first.cancel()
            self._life.enter(LinkState.CLOSED, str(error))
            if isinstance(error, TimeoutError):
                why = f": {self._trouble}" if self._trouble else ""
                raise ConnectionLost(f"not connected to {self.settings.where} within {timeout:g} s{why}") from error
            raise

    async def _stop_runner(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)

    async def _run(self, first: asyncio.Future[None]) -> None:
        """Connect, keep, connect again."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            began = loop.time()
            try:
                session = await self._establish()
            except Exception as error:
                trouble = translate(error, doing=f"restoring the link to {self.settings.where}")
                self._trouble = str(trouble)
                if not first.done() and isinstance(trouble, ConfigurationError | TopologyConflict):
                    first.set_exception(trouble)
                    return
                _log.warning("%s", trouble, exc_info=None if trouble is error else error)
            else:
                if not first.done():
                    first.set_result(None)
                reason = await self._keep(session)
                _log.warning("the link to %s was lost: %s", self.settings.where, reason)
                if loop.time() - began > self.settings.backoff.most:
                    attempt = 0
            await self.clock.sleep(self.settings.backoff.delay(attempt, self._chance))
            attempt += 1

    async def _establish(self) -> Session:
        """A session with everything restored on it, told to all."""
        session = await Session.open(self.settings)
        try:
            await self.publisher.attach(session.publish)
            await session.declare(self._topology.exchanges)
            await session.check_name(self._topology.rpc)
            await self._restore_all(session.consume)
        except BaseException:
            await self._let_go(session, "not restored")
            raise
        self._session = session
        self._changed.set()
        session.publish.on_change = lambda: self._on_change(session)
        # first the way out, then the news, then what came in: a receiver may answer at once
        self.publisher.resume()
        self._life.enter(LinkState.READY)
        for subscription in tuple(self._subscriptions):
            subscription.release()
        self._on_change(session)
        return session

    async def _restore_all(self, link: Link) -> None:
        """One that can't be restored now is tried again later, and keeps nothing else from going on."""
        subscriptions = tuple(self._subscriptions)
        restored = await asyncio.gather(*(each.open(link, held=True) for each in subscriptions), return_exceptions=True)
        for subscription, error in zip(subscriptions, restored, strict=True):
            if isinstance(error, FabricError) and not link.lost.done():
                self.lost_consumer(subscription, str(error))
            elif isinstance(error, BaseException):
                raise error

    async def _keep(self, session: Session) -> str:
        """Until ``session`` is lost; returns why."""
        reason = "closed by us"
        try:
            reason = await session.guard()
        finally:
            self._session = None
            if not self._closed:
                self._changed.clear()
                self._life.enter(LinkState.RECONNECTING, reason)
                await self._let_go(session, reason)
        return reason

    async def _let_go(self, session: Session, reason: str) -> None:
        for subscription in self._subscriptions:
            subscription.drop()
        self.publisher.detach(reason)
        await session.abort(reason)

    def _on_change(self, session: Session) -> None:
        """The broker blocks or unblocks publishes, or the network takes bytes again."""
        if session is not self._session or not self._life.connected:
            return
        blocked = session.publish.blocked
        self._life.enter(LinkState.READY if blocked is None else LinkState.BLOCKED, blocked or "")
        self.publisher.refresh()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        session = self._session
        await self._stop_runner()
        if self._first is not None and not self._first.done():
            self._first.set_exception(TransportClosed("the transport was closed while it connected"))
        if session is not None:
            await session.close(timeout=_CLOSE_SECONDS)
        for subscription in self._subscriptions:
            subscription.end()
        await self.publisher.aclose()
        await self._tasks.aclose()
        if self._life.state is not LinkState.CLOSED:
            self._life.enter(LinkState.CLOSED, "closed by us")

    # -- what subscriptions need ----------------------------------------------------------------------------------

    async def _connected(self, timeout: float) -> Session:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self._closed:
                        raise TransportClosed("the transport is closed")
                    if self._session is not None:
                        return self._session
                    await self._changed.wait()
        except TimeoutError as error:
            raise ConnectionLost(f"no link to {self.settings.where} within {timeout:g} s") from error

    async def _consuming_link(self, timeout: float) -> Link:
        return (await self._connected(timeout)).consume

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._closed:
            work.close()
        else:
            self._tasks.start(work, name)

    def forget(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def lost_consumer(self, subscription: Subscription, reason: str) -> None:
        _log.warning("the consumer of %r was lost: %s", subscription.address, reason)
        self.start(self._restore(subscription, reason), f"restore {subscription.address}")

    async def _restore(self, subscription: Subscription, reason: str) -> None:
        """Consume again on the link of now. When that link is lost too, the next one restores everything."""
        session = self._session
        attempt = 0
        await self.clock.sleep(_SETTLING_SECONDS)
        while session is not None and not session.lost and not subscription.closed:
            try:
                await subscription.open(session.consume, held=True)
            except (TopologyConflict, ConfigurationError) as error:
                _log.error("%r can't be consumed: %s", subscription.address, error)
                self._life.consumer_refused(subscription.address, str(error))
                await self.clock.sleep(_REFUSED_BACKOFF.delay(attempt, self._chance))
            except FabricError as error:
                _log.warning("%r is not yet consumed again: %s", subscription.address, error)
                await self.clock.sleep(self.settings.backoff.delay(attempt, self._chance))
            else:
                self._life.consumer_restored(subscription.address, reason)
                subscription.release()
                return
            attempt += 1

    # -- the rest of the contract ---------------------------------------------------------------------------------

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
        if delay is not None:
            check_delay(delay, expires=expires, mandatory=mandatory)
            if exchange != self._topology.events:
                raise ValueError(f"only events can be delayed, not what goes to {exchange!r}")
            await self._delays.send(
                self._consuming_link,
                key,
                body,
                milliseconds=step(delay),
                timeout=timeout,
                priority=priority,
                content_type=content_type,
                headers=headers,
                message_id=message_id,
            )
            return
        await self.publisher.send(
            exchange,
            key,
            body,
            timeout=timeout,
            priority=priority,
            content_type=content_type,
            headers=headers,
            message_id=message_id,
            expires=expires,
            mandatory=mandatory,
            answered=answered,
            persistent=persistent,
        )

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
        return self.publisher.submit(
            exchange, key, body, told, timeout=timeout, priority=priority, content_type=content_type, answered=answered
        )

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
        return self.publisher.post(
            exchange, key, body, priority=priority, content_type=content_type, headers=headers, expires=expires
        )

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> Subscription:
        subscription = Subscription(self, queue, receiver)
        trouble = "not tried"
        try:
            async with asyncio.timeout(timeout):
                while True:
                    session = await self._connected(timeout)
                    try:
                        await subscription.open(session.consume, held=False)
                    except ConnectionLost as error:
                        trouble = str(error)
                        await self.clock.sleep(self.settings.backoff.first)
                        continue
                    if session is self._session and not session.lost:
                        self._subscriptions.add(subscription)
                        if queue.durable:
                            self.start(self._succeed(subscription, queue), f"succession of {queue.name}")
                        return subscription
        except TimeoutError as error:
            raise ConnectionLost(f"not consuming {queue.name or queue.exchange!r} within {timeout:g} s: {trouble}") from error

    async def _succeed(self, subscription: Subscription, queue: QueueSpec) -> None:
        await self._successions.take_over(queue, self._consuming_link, lambda: not subscription.closed)

    async def dead_letters(self, queue: str, *, limit: int, timeout: float) -> list[DeadLetter]:
        return await self._within(timeout, lambda link: self._dead_letters.list(link, queue, limit=limit))

    async def replay_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        return await self._within(timeout, lambda link: self._dead_letters.replay(link, queue, id, timeout=timeout))

    async def discard_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        return await self._within(timeout, lambda link: self._dead_letters.discard(link, queue, id))

    async def _within(self, timeout: float, work: Callable[[Link], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(timeout):
                return await work((await self._connected(timeout)).consume)
        except TimeoutError as error:
            raise ConnectionLost(f"not done within {timeout:g} s") from error

    async def ping(self, *, timeout: float) -> float:
        try:
            async with asyncio.timeout(timeout):
                return await (await self._connected(timeout)).ping(timeout=timeout)
        except TimeoutError as error:
            raise ConnectionLost(f"no answer to a ping within {timeout:g} s") from error
