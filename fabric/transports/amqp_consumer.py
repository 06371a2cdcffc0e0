"""A subscription over all epochs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from fabric.errors import ConnectionLost, TransportClosed
from fabric.transports.amqp_intake import Intake, IntakeOrders
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_moves import Mover
from fabric.transports.amqp_parts import Remembered
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.base import QueueSpec, Receiver


class Home(Protocol):
    """What a subscription needs of its transport."""

    @property
    def settings(self) -> AmqpSettings: ...
    @property
    def mover(self) -> Mover: ...

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run it in the background."""
        ...

    def lost_consumer(self, subscription: Subscription, reason: str) -> None:
        """The broker ended it: restore it."""
        ...

    def forget(self, subscription: Subscription) -> None:
        """It is closed: do not restore it."""
        ...


class Subscription:
    """See ``Consumer``. What is asked for holds over epochs; in each it has another ``Intake``."""

    def __init__(self, home: Home, spec: QueueSpec, receiver: Receiver) -> None:
        self._home, self._spec = home, spec
        self._orders = IntakeOrders(
            spec=spec,
            receiver=receiver,
            ours=home.settings.vouched_user,
            mover=home.mover,
            done=Remembered(spec.prefetch),
            start=home.start,
        )
        self._keys: dict[str, None] = dict.fromkeys(spec.keys)
        self._intake: Intake | None = None
        self._busy = asyncio.Lock()
        self._up = asyncio.Event()
        self.closed = False

    @property
    def address(self) -> str:
        return self._intake.queue if self._intake is not None else self._spec.name or ""

    async def open(self, link: Link, *, held: bool) -> None:
        """Consume on ``link``, in place of wherever it did before.

        Args:
            link: of now.
            held: keep what comes until ``release``.

        Raises:
            ConnectionLost, ConfigurationError, TopologyConflict.
        """
        async with self._busy:
            if self.closed:
                return
            if self._intake is not None:
                await self._intake.replace(link)
            intake = Intake(self._orders, link, held=held, lost=lambda reason: self._on_lost(intake, reason))
            await intake.open(tuple(self._keys))
            self._intake = intake
            if not intake.alive:
                raise ConnectionLost(f"{intake.queue!r} was lost as soon as it was consumed")
            self._up.set()

    def _on_lost(self, intake: Intake, reason: str) -> None:
        if intake is self._intake and not self.closed:
            self._up.clear()
            self._home.lost_consumer(self, reason)

    def release(self) -> None:
        if self._intake is not None:
            self._intake.release()

    def drop(self) -> None:
        self._up.clear()
        if self._intake is not None:
            self._intake.drop()

    async def bind(self, key: str) -> None:
        self._keys[key] = None
        await self._change(lambda intake: intake.bind(key))

    async def unbind(self, key: str) -> None:
        self._keys.pop(key, None)
        await self._change(lambda intake: intake.unbind(key))

    async def _change(self, change: Callable[[Intake], Awaitable[None]]) -> None:
        limit = self._home.settings.operation_timeout
        try:
            async with asyncio.timeout(limit):
                while not self.closed:
                    await self._up.wait()
                    async with self._busy:
                        if self._up.is_set() and self._intake is not None:
                            await change(self._intake)
                            return
        except TimeoutError as error:
            raise ConnectionLost(
                f"{self.address!r} was not restored within {limit:g} s; the change will be part of it"
            ) from error
        raise TransportClosed("the consumer is closed")

    def end(self) -> None:
        """The transport is closed."""
        self.drop()
        self.closed = True
        self._up.set()

    async def aclose(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._up.set()
        self._home.forget(self)
        async with self._busy:
            if self._intake is not None:
                await self._intake.close()
