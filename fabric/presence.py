"""Being found and finding others: announcements, questions, heartbeats, and the check of those that fell silent.

Interest-based: a hub binds only to the services and capabilities that it calls, so traffic grows with the pairs of callers
and callees, not with the square of the fleet.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace

from fabric.clock import Clock
from fabric.config import Settings
from fabric.errors import FabricError, InvalidMessage, NoRoute, TransportError
from fabric.routing.instance import Instance
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
from fabric.wire.message import MessageIds, MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.presence")

UP = "fabric.up"
WHO = "fabric.who"
PROBE_TIMEOUT = 2.0
FIRST_ANSWER_TIMEOUT = 1.0


class Presence:
    """One hub's part in discovery."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        registry: ServiceRegistry,
        settings: Settings,
        *,
        address: str,
        ids: MessageIds,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._transport, self._topology, self._registry = transport, topology, registry
        self._settings, self._address, self._ids, self._clock, self._chance = settings, address, ids, clock, chance
        self._tasks = Tasks("presence")
        self._consumer: Consumer | None = None
        self._own: Callable[[], Instance] | None = None
        self._sequence = 0
        self._interests: dict[str, tuple[str, str]] = {}
        self._finding: dict[str, asyncio.Task[str]] = {}
        self._waiting_on: Callable[[float], set[str]] = lambda _: set()
        self._lost: Callable[[str, str], None] = lambda id, reason: None
        self._unwatch = transport.watch(self._link_changed)

    async def open(self, *, waiting_on: Callable[[float], set[str]], lost: Callable[[str, str], None], timeout: float) -> None:
        """Start listening and watching.

        Args:
            waiting_on: gives the instances that owe an answer for more than that many seconds.
            lost: called with an instance and the reason when it is proved gone.
            timeout: seconds to reach the broker.
        """
        self._waiting_on, self._lost = waiting_on, lost
        self._consumer = await self._transport.consume(self._topology.discoveries(), self._receive, timeout=timeout)
        self._tasks.start(self._watch(), "watch the instances")

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
        """Tell everybody who is interested now."""
        if self._own is None or self._transport.state is LinkState.CLOSED:
            return
        instance, data = self._announcement()
        for key in (up_service(instance.service), *(up_capability(name) for name in instance.capabilities)):
            self._transport.post(self._topology.discovery, key, data, priority=Priority.CRITICAL)

    def _announcement(self) -> tuple[Instance, bytes]:
        assert self._own is not None
        self._sequence += 1
        instance = replace(self._own(), sequence=self._sequence)
        message = ServiceMessage(
            self._ids.next(),
            MessageType.BROADCAST,
            instance.service,
            instance.id,
            "",
            UP,
            instance.to_plain(),
            Priority.CRITICAL,
        )
        return instance, codec.encode(message)

    async def find(self, service: str | None, capability: str | None, deadline: float) -> str:
        """Ask who offers it, unless somebody is known by the time this returns.

        Returns:
            Why nobody may be there, for an error's text; the registry tells whether somebody is.
        """
        key = who_service(service) if service is not None else who_capability(str(capability))
        task = self._finding.get(key)
        if task is None:
            task = self._finding[key] = self._tasks.start(self._ask(key, service, capability), f"find {key}")
            task.add_done_callback(lambda _: self._finding.pop(key, None))
        left = deadline - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(asyncio.shield(task), max(left, 0.001))
        except TimeoutError:
            return f"no answer to the question who is there; the link is {self._transport.state}"

    async def find_everyone(self) -> None:
        """Be told of every instance there is, now and later."""
        await self._take_interest(WHO_EVERYONE, EVERY_ANNOUNCEMENT)
        await self._question(WHO_EVERYONE)

    async def _ask(self, key: str, service: str | None, capability: str | None) -> str:
        await self._take_interest(key, up_service(service) if service is not None else up_capability(str(capability)))
        arrived = asyncio.Event()
        unwatch = self._registry.watch(lambda _: arrived.set())
        try:
            try:
                await self._question(key)
            except NoRoute:
                return self._known_but_idle(service, capability) or "nobody offers it"
            except TransportError as error:
                return str(error)
            try:
                async with asyncio.timeout(FIRST_ANSWER_TIMEOUT):
                    while not self._callable(service, capability):
                        arrived.clear()
                        if self._known_but_idle(service, capability):
                            break
                        await arrived.wait()
            except TimeoutError:
                pass
            return self._known_but_idle(service, capability) or "somebody is bound to it, but does not answer"
        finally:
            unwatch()

    def _callable(self, service: str | None, capability: str | None) -> bool:
        if service is not None:
            return bool(self._registry.candidates(service))
        return bool(self._registry.candidates_by_capability(str(capability)))

    def _known_but_idle(self, service: str | None, capability: str | None) -> str:
        known = self._registry.instances(service) if service is not None else self._registry.offering(str(capability))
        idle = [f"{instance.id} is {instance.state}" for instance in known if not instance.takes_calls]
        return ", ".join(idle[:3])

    async def _take_interest(self, question: str, answers: str) -> None:
        assert self._consumer is not None
        if question not in self._interests:
            await self._consumer.bind(answers)
            self._interests[question] = (question, answers)

    async def _question(self, key: str) -> None:
        message = ServiceMessage(
            self._ids.next(),
            MessageType.BROADCAST,
            "",
            self._address,
            "",
            WHO,
            priority=Priority.CRITICAL,
            reply_to=self._address,
        )
        await self._transport.send(
            self._topology.discovery,
            key,
            codec.encode(message),
            timeout=PROBE_TIMEOUT,
            priority=Priority.CRITICAL,
            expires=PROBE_TIMEOUT,
            mandatory=True,
        )

    def _receive(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type):
            if isinstance(message, InvalidMessage):
                _log.warning("refused on discovery: %s", message)
            elif message.method == WHO and message.reply_to and self._own is not None:
                _, data = self._announcement()
                self._transport.post(self._topology.rpc, message.reply_to, data, priority=Priority.CRITICAL)
            elif message.method == UP:
                self.heard(message)

    def heard(self, message: ServiceMessage) -> None:
        """Take an announcement, also one that came as an answer."""
        try:
            instance = Instance.from_plain(message.payload)
        except InvalidMessage as error:
            _log.warning("refused an announcement from %s: %s", message.instance, error)
            return
        self._registry.apply(instance, self._clock.monotonic())

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_interval * (0.9 + 0.2 * self._chance.random()))
            self.announce()

    async def _watch(self) -> None:
        """An instance is dropped only when the broker says that its inbox is gone: a silent one may just be busy."""
        interval = min(1.0, self._settings.heartbeat_interval)
        while True:
            await asyncio.sleep(interval)
            if self._transport.state is not LinkState.READY:
                continue
            silent = self._settings.heartbeat_interval * self._settings.lost_after
            overdue = {endpoint.id for endpoint in self._registry.overdue(self._clock.monotonic() - silent)}
            for id in overdue:
                self._registry.suspect(id)
            for id in sorted(overdue | self._waiting_on(1.0))[:200]:
                self._tasks.start(self._probe(id), f"probe {id}")

    async def _probe(self, id: str) -> None:
        message = ServiceMessage(
            self._ids.next(), MessageType.PROBE, "", self._address, "", "fabric.probe", priority=Priority.CRITICAL
        )
        try:
            await self._transport.send(
                self._topology.rpc,
                id,
                codec.encode(message),
                timeout=PROBE_TIMEOUT,
                priority=Priority.CRITICAL,
                expires=PROBE_TIMEOUT,
                mandatory=True,
            )
        except NoRoute:
            self._lost(id, "its inbox is gone from the broker")
        except FabricError as error:
            _log.debug("probe of %s: %s", id, error)

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY and event.epoch > 1 and self._consumer is not None:
            self._tasks.start(self._rejoin(), "rejoin")

    async def _rejoin(self) -> None:
        """After a reconnect: be found again, and learn what was missed."""
        self.announce()
        for question in list(self._interests):
            try:
                await self._question(question)
            except FabricError as error:
                _log.debug("question %s after a reconnect: %s", question, error)

    async def aclose(self) -> None:
        self._unwatch()
        await self._tasks.aclose()
        if self._consumer is not None:
            await self._consumer.aclose()
