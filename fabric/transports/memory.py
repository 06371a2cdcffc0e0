"""A broker in this process, with the semantics of a real one, and transports on it.

Nothing is global: who shares a ``MemoryNetwork`` shares a broker. It is not durable: what survives ``restart`` is what a
durable broker would keep, and nothing survives the process.
"""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Protocol, Self

from fabric.clock import Clock, SystemClock
from fabric.errors import ConnectionLost
from fabric.transports.alarm import OPERATOR
from fabric.transports.backoff import Backoff
from fabric.transports.link import Client
from fabric.transports.linked import LinkedTransport
from fabric.transports.memory_broker import Broker
from fabric.transports.memory_link import MemoryLink
from fabric.transports.memory_session import Carrier, Session
from fabric.transports.topology import Topology
from fabric.wire.message import MessageIds

DEFAULT_MAX_BODY = 8 * 1024 * 1024
"""Bytes. Half of what RabbitMQ takes from 4.0, so that a message that works here works there."""


class Named(Protocol):
    """A transport, as a network knows it."""

    @property
    def id(self) -> str: ...


class MemoryNetwork:
    """A broker, the links to it, and all the harm that can be done to them.

    Args:
        clock: for expiry, retries, back-off and how long silence is borne.
        most_bytes: bytes of messages held at which it takes no more publishes until there is room again.
        most_queue_bytes: bytes that one exclusive queue holds before it refuses more.
        client_patience: seconds after which a client gives up a link on which nothing passes.
        broker_patience: the same for the broker's end, which frees exclusive queues and what was unacknowledged.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        most_bytes: int = 512 * 1024 * 1024,
        most_queue_bytes: int = 64 * 1024 * 1024,
        client_patience: float = 5.0,
        broker_patience: float = 35.0,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.broker = Broker(self.clock, most_bytes=most_bytes, most_queue_bytes=most_queue_bytes, alarmed=self._alarmed)
        self._client_patience, self._broker_patience = client_patience, broker_patience
        self._sessions: dict[Session, None] = {}
        self._down = False
        self._apart: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """All links break and delayed messages are forgotten. Idempotent."""
        self.go_down()
        await self.broker.timers.aclose()

    @property
    def links(self) -> int:
        """Links that the broker believes in."""
        return len(self._sessions)

    def open(self, carrier: Carrier, *, client: str, instance: str, user: str | None = None) -> Session:
        """The broker's end of a new link.

        Raises:
            ConnectionLost: down, or ``client`` is cut off by ``partition``.
        """
        if self._down or client in self._apart:
            raise ConnectionLost("nobody listens there")
        session = Session(self.broker, carrier, client=client, instance=instance, user=user, ended=self._ended)
        self._sessions[session] = None
        if self.broker.alarm.reason:
            carrier.blocked(self.broker.alarm.reason)
        return session

    def cut(self, transport: Named) -> None:
        """Break its links; both ends notice, and it connects again by itself."""
        for carrier in self._carriers(transport.id):
            carrier.sever("the link was cut")

    def pause(self, transport: Named) -> None:
        """Half-open: nothing more passes on its present links, and neither end is told."""
        for carrier in self._carriers(transport.id):
            carrier.pause()

    def resume(self, transport: Named) -> None:
        """What was held on its links passes, unless an end has given them up."""
        for carrier in self._carriers(transport.id):
            carrier.resume()

    def partition(self, *transports: Named) -> None:
        """Break their links and refuse new ones, until ``heal``."""
        self._apart.update(transport.id for transport in transports)
        for transport in transports:
            self.cut(transport)

    def heal(self) -> None:
        self._apart.clear()

    def block(self) -> None:
        """Raise the alarm: the broker asks all publishers to stop. Consuming goes on."""
        self.broker.alarm.raise_for(OPERATOR)

    def unblock(self) -> None:
        self.broker.alarm.clear_for(OPERATOR)

    def delete_queue(self, name: str) -> bool:
        """With what it holds; its consumers are cancelled. False: there is none."""
        return self.broker.delete_queue(name)

    def restart(self) -> None:
        """All links break; durable queues and what they hold are there again at once."""
        self.go_down()
        self.come_up()

    def go_down(self) -> None:
        """Break all links and refuse new ones, until ``come_up``."""
        self._down = True
        for session in list(self._sessions):
            session.carrier.sever("the broker went down")

    def come_up(self) -> None:
        self._down = False

    def notice_silence(self, link: MemoryLink) -> None:
        """Both ends of a paused link lose patience in their time, if that pause still lasts then."""
        pause = link.paused
        timers = self.broker.timers
        timers.call_later(
            self._client_patience, lambda: link.give_up("no sign of life from the broker") if link.paused == pause else None
        )
        timers.call_later(self._broker_patience, lambda: link.session.close() if link.paused == pause else None)

    def _carriers(self, client: str) -> list[Carrier]:
        return [session.carrier for session in self._sessions if session.client == client]

    def _ended(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def _alarmed(self, reason: str) -> None:
        for session in self._sessions:
            session.carrier.blocked(reason)


class MemoryTransport(LinkedTransport):
    """A transport on a ``MemoryNetwork`` of this process. See ``Transport``.

    Args:
        network: the broker.
        topology: its exchanges are declared on connecting.
        instance: written into the history of failures; random if not given.
        user: what the network vouches for as ``user_id`` of its messages; it believes whatever is said here.
        max_body: bytes that one message may have.
        backoff: between attempts to connect again.
        chance: for its jitter.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        topology: Topology,
        *,
        instance: str | None = None,
        user: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
        backoff: Backoff | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.id = MessageIds().next()
        self._network, self._instance, self._user = network, instance or self.id, user
        super().__init__(
            "memory",
            topology,
            self._dial_network,
            max_body=max_body,
            backoff=backoff or Backoff(),
            clock=network.clock,
            chance=chance or random.Random(),
        )

    async def _dial_network(self, client: Client) -> MemoryLink:
        await asyncio.sleep(0)
        link = MemoryLink(client, max_body=self.max_body, silent=self._network.notice_silence)
        link.session = self._network.open(link, client=self.id, instance=self._instance, user=self._user)
        return link
