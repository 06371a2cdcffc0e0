"""All consumers of a memory or embedded transport, on whatever link it has."""

from __future__ import annotations

import asyncio

from fabric.errors import ConfigurationError, TopologyConflict
from fabric.transports.backlog import Published
from fabric.transports.link import Link
from fabric.transports.linked_consumer import LinkedConsumer
from fabric.transports.linked_delivery import LinkedDelivery
from fabric.transports.memory_session import Verb


class LinkedConsumers:
    """Restores them on a new link, and gives each delivery to its own once that link is the present one."""

    def __init__(self) -> None:
        self._known: dict[int, LinkedConsumer] = {}
        self._link: Link | None = None
        self._opening: Link | None = None
        self._early: list[tuple[int, int, int, Published]] = []

    def add(self, consumer: LinkedConsumer) -> None:
        self._known[consumer.id] = consumer

    def remove(self, consumer: LinkedConsumer) -> None:
        """Idempotent."""
        self._known.pop(consumer.id, None)

    def find(self, link: Link, id: int) -> LinkedConsumer | None:
        """The one of this number, if ``link`` is the present one or about to be."""
        return self._known.get(id) if link in (self._link, self._opening) else None

    async def restore(self, link: Link) -> dict[LinkedConsumer, str]:
        """Consume on ``link``; what comes is kept until ``start``.

        Returns:
            Those that the broker refused, and why.

        Raises:
            ConnectionLost: the link broke.
        """
        self._opening, self._early = link, []
        refused = {}
        for consumer in list(self._known.values()):
            try:
                if not consumer.closed:
                    await consumer.attach(link)
            except (TopologyConflict, ConfigurationError) as error:
                refused[consumer] = str(error)
            if consumer.closed:
                await link.ask(Verb.CANCEL, consumer.id)
        return refused

    def start(self, link: Link) -> None:
        """``link`` is the present one from now on."""
        self._link, self._opening = link, None
        early, self._early = self._early, []
        for delivery in early:
            self.delivered(link, *delivery)

    def delivered(self, link: Link, id: int, tag: int, attempt: int, message: Published) -> None:
        """What belongs to a link of before is dropped: the broker has it again."""
        if link is self._opening:
            self._early.append((id, tag, attempt, message))
        elif link is self._link:
            delivery = LinkedDelivery(link, tag, attempt, message)
            consumer = self._known.get(id)
            if consumer is None:
                delivery.release()
                return
            try:
                consumer.receiver(delivery)
            except Exception as error:
                context = {"message": f"the receiver of {consumer.address!r} raised", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def close(self) -> None:
        """None gets anything any more."""
        self._link = self._opening = None
        for consumer in self._known.values():
            consumer.closed = True
        self._known.clear()
