"""Being found and finding others: announcements, questions, heartbeats.

Interest-based: a hub binds only to the services and capabilities that it calls, so traffic grows with the pairs of callers
and callees, not with the square of the fleet.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from fabric.clock import Clock
from fabric.config import Settings
from fabric.errors import FabricError, InvalidMessage, NoRoute, TransportClosed, TransportError
from fabric.identity import Identity
from fabric.refusals import Refusals
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.registry import ServiceRegistry
from fabric.tasks import Tasks
from fabric.transports.base import Consumer, Delivery, LinkEvent, LinkState, Transport
from fabric.transports.topology import (
    EVERY_ANNOUNCEMENT,
    WHO_EVERYONE,
    Topology,
    up_capability,
    up_service,
    who_capability,
    who_service,
)
from fabric.wire import batch, codec
from fabric.wire.message import MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.presence")

UP = "fabric.up"
WHO = "fabric.who"
QUESTION_TIMEOUT = 2.0
FIRST_ANSWER_TIMEOUT = 1.0
QUESTION_INTERVAL = 0.02
"""Seconds between questions for the same name, however many callers want to know."""
MOST_INTERESTS = 4096
"""Names that are listened for. Who calls names that it was given by others must not fill the broker with bindings."""
SETTLING = 5.0
"""Seconds after our own reconnect in which others may be reconnecting too: who was there before is waited for."""


class Presence:
    """One hub's part in discovery."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        registry: ServiceRegistry,
        settings: Settings,
        me: Identity,
        *,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._transport, self._topology, self._registry = transport, topology, registry
        self._settings, self._me, self._clock, self._chance = settings, me, clock, chance
        self._refusals = Refusals(_log, clock)
        self._tasks = Tasks("presence")
        self._consumer: Consumer | None = None
        self._own: Callable[[], Instance] | None = None
        self._sequence = 0
        self._interests: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[str]] = {}
        self._asked_at: dict[str, float] = {}
        self._met: set[str] = set()
        self._settled_at = 0.0
        self._closed = False
        self._waiting: set[asyncio.Future[None]] = set()
        self._unwatch = (transport.watch(self._link_changed), registry.watch(lambda _: self._wake()))

    async def open(self, *, timeout: float) -> None:
        """Start listening; ``timeout`` in seconds to reach the broker."""
        self._consumer = await self._transport.consume(self._topology.discoveries(), self._receive, timeout=timeout)

    # ------------------------------------------------------------ being found

    async def announce_as(self, own: Callable[[], Instance]) -> None:
        """From now on be found as what ``own`` returns, and say so regularly."""
        assert self._consumer is not None
        first = self._own is None
        self._own = own
        instance = own()
        await self._consumer.bind(who_service(instance.service))
        await self._consumer.bind(WHO_EVERYONE)
        for capability in instance.capabilities:
            await self._consumer.bind(who_capability(capability))
        self.announce()
        if first:
            self._tasks.start(self._heartbeats(), "heartbeats")

    def announce(self) -> None:
        """Tell everybody who is interested now.

        Raises:
            InvalidMessage, PayloadTooLarge: what the instance says of itself can't be sent.
        """
        if self._own is None or self._transport.state is LinkState.CLOSED:
            return
        instance, message = self._announcement()
        data = codec.encode(message)
        for key in (up_service(instance.service), *(up_capability(name) for name in instance.capabilities)):
            self._transport.post(self._topology.discovery, key, data, priority=Priority.CRITICAL)

    def _announcement(self) -> tuple[Instance, ServiceMessage]:
        assert self._own is not None
        self._sequence += 1
        instance = replace(self._own(), sequence=self._sequence)
        message = ServiceMessage(
            self._me.ids.next(),
            MessageType.BROADCAST,
            instance.service,
            instance.id,
            "",
            UP,
            instance.to_plain(),
            Priority.CRITICAL,
        )
        return instance, message

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_interval * (0.9 + 0.2 * self._chance.random()))
            try:
                self.announce()
            except Exception:
                # A description that fails once must not make the instance silent for good.
                _log.exception("could not announce this instance")

    # ------------------------------------------------------------ finding others

    async def find(self, service: str | None, capability: str | None, found: Callable[[], bool], *, deadline: float) -> str:
        """Ask who offers it. Returns as soon as ``found`` says yes, or when nobody who could answer has.

        Args:
            deadline: in the loop's time.

        Returns:
            Why nobody may be there, for an error's text.
        """
        key = who_service(service) if service is not None else who_capability(str(capability))
        answers = up_service(service) if service is not None else up_capability(str(capability))
        asking = self._asking.get(key)
        if asking is None:
            try:
                asking = self._tasks.start(self._ask(key, answers), f"ask {key}")
            except RuntimeError:
                return "the hub is closed"
            self._asking[key] = asking
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        now = asyncio.get_running_loop().time
        await asyncio.wait((asking,), timeout=max(deadline - now(), 0.001))
        if not asking.done():
            return f"no answer to the question who is there; the link is {self._transport.state}"
        if asking.cancelled():
            return "the hub is closed"
        if reason := asking.result():
            until = min(deadline, self._settled_at) if key in self._met else 0.0
        else:
            until, reason = min(deadline, now() + FIRST_ANSWER_TIMEOUT), "somebody is bound to it, but does not answer"
        while not found():
            if idle := self._idle(service, capability):
                reason = idle
                if not self._about_to_run(service, capability):
                    return reason
            if now() >= until or not await self._news(until - now()):
                return reason
            if self._closed:
                return "the hub is closed"
        self._met.add(key)
        return ""

    async def find_everyone(self) -> None:
        """Be told of every instance there is, now and later."""
        try:
            await self._question(WHO_EVERYONE, EVERY_ANNOUNCEMENT)
        except NoRoute:
            return  # nobody yet

    async def _ask(self, key: str, answers: str) -> str:
        """Why nobody can answer; empty when somebody got the question."""
        now = asyncio.get_running_loop().time
        wait = self._asked_at.get(key, 0.0) + QUESTION_INTERVAL - now()
        if wait > 0:
            await asyncio.sleep(wait)
        self._asked_at[key] = now()
        try:
            await self._question(key, answers)
        except NoRoute:
            return "nobody offers it"
        except TransportError as error:
            return str(error)
        return ""

    def _about_to_run(self, service: str | None, capability: str | None) -> bool:
        """Whether one of them only waits for its first health check, and may be known to others as ready already."""
        return any(instance.state is InstanceState.STARTING for instance in self._known(service, capability))

    def _known(self, service: str | None, capability: str | None) -> Sequence[Instance]:
        return self._registry.instances(service) if service is not None else self._registry.offering(str(capability))

    def _idle(self, service: str | None, capability: str | None) -> str:
        """Those that are there and take no calls."""
        known = self._known(service, capability)
        idle = [f"{instance.id} is {instance.state}" for instance in known if not instance.takes_calls]
        return ", ".join(idle[:3]) if len(idle) == len(known) else ""

    async def _question(self, key: str, answers: str) -> None:
        assert self._consumer is not None
        if key not in self._interests:
            while len(self._interests) >= MOST_INTERESTS and (old := self._futile()) is not None:
                await self._consumer.unbind(self._interests.pop(old))
                self._asked_at.pop(old, None)
                self._met.discard(old)
            await self._consumer.bind(answers)
            self._interests[key] = answers
        await self._send_question(key)

    def _futile(self) -> str | None:
        """The oldest interest in something of which nobody is known."""
        offered = {who_service(name) for name in self._registry.services}
        offered |= {who_capability(name) for name in self._registry.capabilities}
        return next((key for key in self._interests if key not in offered and key not in self._asking), None)

    async def _send_question(self, key: str) -> None:
        message = ServiceMessage(
            self._me.ids.next(),
            MessageType.BROADCAST,
            "",
            self._me.address,
            "",
            WHO,
            priority=Priority.CRITICAL,
            reply_to=self._me.address,
        )
        await self._transport.send(
            self._topology.discovery,
            key,
            codec.encode(message),
            timeout=QUESTION_TIMEOUT,
            priority=Priority.CRITICAL,
            expires=QUESTION_TIMEOUT,
            mandatory=True,
        )

    async def _news(self, timeout: float) -> bool:
        """Wait for a change in the registry. False: none within ``timeout`` seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            done, _ = await asyncio.wait((future,), timeout=timeout)
            return bool(done)
        finally:
            self._waiting.discard(future)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # ------------------------------------------------------------ what comes in

    def _receive(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            if isinstance(message, InvalidMessage):
                self._refusals.tell("refused on discovery: %s", message)
            elif message.method == WHO:
                self._introduce(message)
            elif message.method == UP:
                self.heard(message)

    def _introduce(self, question: ServiceMessage) -> None:
        address = question.reply_to
        if self._own is None or not address:
            return
        try:
            data = codec.encode_answer(question, self._announcement()[1])
            self._transport.post(self._topology.rpc, address, data, priority=Priority.CRITICAL, content_type=codec.type_of(data))
        except (FabricError, ValueError) as error:
            _log.warning("could not answer who is there: %s", error)

    def heard(self, message: ServiceMessage) -> None:
        """Take an announcement, also one that came as an answer."""
        try:
            instance = Instance.from_plain(message.payload)
        except InvalidMessage as error:
            self._refusals.tell("refused an announcement from %s: %s", message.instance[:100], error)
            return
        self._registry.apply(instance, self._clock.monotonic())

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and event.epoch > 1 and self._consumer is not None:
            self._settled_at = asyncio.get_running_loop().time() + SETTLING
            self._tasks.start(self._rejoin(), "rejoin")

    async def _rejoin(self) -> None:
        """After a reconnect: be found again, and learn what was missed."""
        try:
            self.announce()
        except FabricError as error:
            _log.warning("could not announce this instance: %s", error)
        for key in list(self._interests):
            try:
                await self._send_question(key)
            except TransportClosed:
                return
            except FabricError as error:
                _log.debug("question %s after a reconnect: %s", key, error)

    async def aclose(self) -> None:
        self._closed = True
        for unwatch in self._unwatch:
            unwatch()
        self._wake()
        await self._tasks.aclose()
        if self._consumer is not None:
            await self._consumer.aclose()
