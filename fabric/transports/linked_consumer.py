"""A subscription of the memory and embedded transports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fabric.errors import TransportClosed
from fabric.transports.base import QueueSpec, Receiver
from fabric.transports.link import Link
from fabric.transports.memory_session import Verb

Ask = Callable[..., Awaitable[Any]]
"""Asks the present link, within 5 seconds, waiting for it if need be."""


class LinkedConsumer:
    """See ``Consumer``.

    Args:
        id: names it on every link of its transport.
        ask: the transport's way to ask whatever link it has.
        end: takes it off its transport and off the broker, within 5 seconds; called once.
    """

    def __init__(
        self, id: int, spec: QueueSpec, receiver: Receiver, *, ask: Ask, end: Callable[[LinkedConsumer], Awaitable[None]]
    ) -> None:
        self.id, self.spec, self.receiver = id, spec, receiver
        self.closed = False
        self.link: Link | None = None
        """Where it consumes."""
        self._ask, self._end = ask, end
        self._keys = dict.fromkeys(spec.keys)
        self._address = spec.name or ""

    @property
    def address(self) -> str:
        return self._address

    async def attach(self, link: Link) -> None:
        """Consume on ``link``, with the keys of now.

        Raises:
            ConnectionLost, TopologyConflict, ConfigurationError: as ``Link.ask``.
        """
        spec = self.spec
        address = await link.ask(
            Verb.CONSUME,
            self.id,
            spec.name,
            spec.exchange,
            list(self._keys),
            spec.durable,
            spec.ack,
            spec.prefetch,
            spec.max_attempts,
            list(spec.retry_delays),
            spec.single,
        )
        self._address, self.link = address, link

    async def bind(self, key: str) -> None:
        self._check_open()
        self._keys[key] = None
        await self._ask(Verb.BIND, self.id, self.spec.exchange, key)

    async def unbind(self, key: str) -> None:
        self._check_open()
        self._keys.pop(key, None)
        await self._ask(Verb.UNBIND, self.id, self.spec.exchange, key)

    async def aclose(self) -> None:
        if not self.closed:
            self.closed = True
            await self._end(self)

    def _check_open(self) -> None:
        if self.closed:
            raise TransportClosed(f"the consumer of {self._address!r} is closed")
