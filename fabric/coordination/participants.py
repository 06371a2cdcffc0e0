"""The fleet's instances behind the bus: commands go out on the control lane, reports and announcements come in as events."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fabric.coordination.control import REPORT, command_message, read_report
from fabric.coordination.processes import Processes
from fabric.errors import FabricError, InvalidMessage, NoRoute
from fabric.hub import Hub
from fabric.routing.instance import Instance
from fabric.routing.registry import Happening, RegistryEvent
from fabric.startup.events import Command, CommandKind, CommandLost, Event, InstanceJoined, InstanceLost
from fabric.tasks import Tasks
from fabric.transports import topology
from fabric.transports.base import Consumer, Delivery
from fabric.wire import batch
from fabric.wire.message import MessageIds, Priority

_log = logging.getLogger("fabric.coordinator")

SEND_TIMEOUT = 10.0


class BusParticipants:
    """The ``Participants`` of a fleet whose processes are on the bus, or will be.

    A START for a service of which nobody is there yet is kept, and handed to each instance as it joins: agents answer a
    repeat with what came of the first, so handing it over twice does no harm.

    A rolling restart replaces processes: its commands go to whoever supervises those, and the START to the new process when
    that joins.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._processes = Processes(hub)
        self._replaced: dict[str, int] = {}
        self._receivers: list[Callable[[Event], None]] = []
        self._newest: dict[str, dict[str | None, Command]] = {}
        self._tasks = Tasks("participants")
        self._ids = MessageIds()
        self._consumer: Consumer | None = None
        self._unwatch: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Hear the reports, then learn who is there."""
        self._consumer = await self._hub.transport.consume(
            self._hub.topology.control_lane(topology.EVERY_VOTE), self._receive, timeout=self._hub.settings.connect_timeout
        )
        self._unwatch = self._hub.registry.watch(self._changed)
        try:
            await self._hub.discover_all()
        except NoRoute:
            _log.debug("nobody is there yet")

    def listen(self, receive: Callable[[Event], None]) -> Callable[[], None]:
        self._receivers.append(receive)
        for instance in self._hub.registry.instances():
            receive(_joined(instance))
        return lambda: self._receivers.remove(receive)

    async def send(self, command: Command) -> None:
        if command.kind is not CommandKind.CHECK:
            kept = self._newest.setdefault(command.service, {})
            if command.instance is None:
                kept.clear()
            kept[command.instance] = command
        if command.instance is not None and (command.version or command.kind is CommandKind.STOP):
            self._tasks.start(self._replace(command, command.instance), f"{command.kind} of {command.instance}")
            return
        try:
            await self._publish(command)
        except NoRoute:
            if command.kind is not CommandKind.START:
                raise

    async def _replace(self, command: Command, instance: str) -> None:
        """One step of a rolling restart. A process that is told to end drains and reports that itself."""
        try:
            if command.kind is CommandKind.START:
                known = self._hub.registry.get(instance)
                if known is not None:  # what is heard of the old process from here on says nothing of the new one
                    self._replaced[instance] = known.instance.incarnation
                await self._processes.start(command)
                # One that joined before this coordinator led gets it here; one that joins later, then.
                await self._repeat(command)
                return
            await self._processes.end(command)
        except FabricError as error:
            _log.warning("%s of %s: %s", command.kind, instance, error)
            self.tell(
                CommandLost(
                    kind=command.kind, service=command.service, instance=instance, attempt=command.attempt, reason=str(error)
                )
            )

    async def _publish(self, command: Command) -> None:
        await self._hub.transport.send(
            self._hub.topology.control,
            topology.command(command.service),
            command_message(command, id=self._ids.next(), source=self._hub.name, instance=self._hub.instance),
            timeout=min(SEND_TIMEOUT, max(command.timeout, 1.0)),
            priority=Priority.CRITICAL,
            mandatory=True,
        )

    def _receive(self, delivery: Delivery) -> None:
        now = self._hub.clock.time()
        for message in batch.messages(delivery.body, delivery.content_type):
            if isinstance(message, InvalidMessage) or message.method != REPORT:
                continue
            try:
                self.tell(read_report(message, now))
            except InvalidMessage as error:
                _log.warning("refused a report of %s: %s", message.instance, error)

    def _changed(self, event: RegistryEvent) -> None:
        instance = event.instance
        reborn = event.before is not None and event.before.incarnation < instance.incarnation
        if event.happening is Happening.JOINED or reborn:
            self.tell(_joined(instance))
            kept = self._newest.get(instance.service, {})
            command = kept.get(instance.id) or kept.get(None)
            if command is not None and command.kind is CommandKind.START:
                self._tasks.start(self._repeat(command), f"repeat {command.kind} to {instance.id}")
        elif event.happening is Happening.LOST and instance.incarnation > self._replaced.get(instance.id, -1):
            # One that left said so at the beginning of its stop; that it has stopped it reports itself.
            self.tell(
                InstanceLost(
                    service=instance.service, instance=instance.id, reason=event.reason, incarnation=instance.incarnation
                )
            )

    async def _repeat(self, command: Command) -> None:
        try:
            await self._publish(command)
        except NoRoute:
            _log.debug("%s went away again before its command", command.service)

    def tell(self, event: Event) -> None:
        """Something about an instance that came in another way, such as from the supervisor of its process."""
        for receive in tuple(self._receivers):
            receive(event)

    async def aclose(self) -> None:
        self._unwatch()
        if self._consumer is not None:
            await self._consumer.aclose()
        await self._tasks.aclose()


def _joined(instance: Instance) -> InstanceJoined:
    """Sequence 0 is before all that it reports itself: an announcement says no more than that it is there."""
    return InstanceJoined(service=instance.service, instance=instance.id, incarnation=instance.incarnation, sequence=0)
