"""One connection to the broker, for one epoch: made open, used, lost or closed, never opened again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiormq
from aiormq.channel import Channel
from aiormq.connection import TransportFactory
from pamqp import commands
from yarl import URL

from fabric.errors import ConnectionLost, FabricError
from fabric.transports.amqp_errors import translate
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.amqp_wire import Lane, Wire

_CLOSE_SECONDS = 1.0

T = TypeVar("T")


class _Opened(TransportFactory):
    """Hands aiormq the socket that is open already."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams = reader, writer

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._streams


class Link:
    """An open connection.

    Attributes:
        lost: done, with the reason, when the link is gone. Never an exception.
        code: what the broker gave as the code of its reason; 0 if it gave none.
        blocked: why the broker takes no publishes on it now; None if it does.
        on_change: called when ``blocked`` changes or the network takes bytes again.
    """

    def __init__(self, settings: AmqpSettings, purpose: str) -> None:
        self._settings = settings
        self._purpose = purpose
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.code = 0
        self.blocked: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.wire = Wire(lost=self._on_lost, blocked=self._on_blocked, resumed=lambda: self.on_change())
        self._connection: aiormq.Connection | None = None
        self._probe: Channel | None = None
        self._question: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: AmqpSettings, purpose: str) -> Link:
        """Connect within ``settings.operation_timeout`` seconds.

        Args:
            purpose: a word for the broker's list of connections.

        Raises:
            ConnectionLost: not reached.
            ConfigurationError: refused for good.
        """
        link = cls(settings, purpose)
        try:
            async with asyncio.timeout(settings.operation_timeout):
                await link._open()
        except BaseException as error:
            await link.abort("")
            if isinstance(error, FabricError) or not isinstance(error, Exception):
                raise
            doing = f"connecting to {settings.where}"
            raise translate(error, doing=doing, code=link.code, reason=link.lost.result()) from error
        return link

    async def _open(self) -> None:
        settings = self._settings
        tls = settings.tls.context() if settings.tls else None
        name = (settings.tls.server_name or settings.host) if settings.tls else None
        socket, _ = await self.wire.loop.create_connection(
            lambda: self.wire, settings.host, settings.port, ssl=tls, server_hostname=name
        )
        writer = asyncio.StreamWriter(socket, self.wire, self.wire.reader, self.wire.loop)
        self._connection = connection = aiormq.Connection(
            URL.build(
                scheme="amqps" if tls else "amqp",
                host=settings.host,
                port=settings.port,
                user=settings.user,
                password=settings.secret(),
                path="/",
                query={"heartbeat": str(settings.heartbeat), "auth": "external" if settings.external else "plain"},
            ),
            transport_factory=_Opened(self.wire.reader, writer),
            client_properties={"connection_name": f"{settings.name}: {self._purpose}", "product": "fabric"},
        )
        connection.vhost = settings.vhost
        connecting = self.wire.loop.create_task(connection.connect())
        try:
            await asyncio.wait({connecting})
            connecting.result()
        finally:
            if not connecting.done():
                # cancelling aiormq here would leave it waiting for the other end; without its socket it ends by itself
                self.wire.abort()
                await asyncio.gather(connecting, return_exceptions=True)
        await self._ask_for_nothing()

    # -- use ------------------------------------------------------------------------------------------------------

    @property
    def frame_max(self) -> int:
        assert self._connection is not None
        return self._connection.connection_tune.frame_max or 131_072

    @property
    def channel_max(self) -> int:
        """Channels that the broker allows on one connection; 0 is no limit."""
        assert self._connection is not None
        return self._connection.connection_tune.channel_max or 0

    @property
    def server_version(self) -> str:
        return self.server_property("version")

    def server_property(self, name: str) -> str:
        """What the broker says of itself: ``product``, ``version``, ``cluster_name``, …; "" where it does not."""
        assert self._connection is not None
        value = self._connection.server_properties.get(name, "")
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    async def channel(self, lane: Lane | None = None, *, confirms: bool = False) -> Channel:
        """Open a channel; what comes on it goes to ``lane``.

        Raises:
            ConnectionLost: not opened in time.
        """
        connection = self._connection
        assert connection is not None
        channel = await self.ask(lambda: connection.channel(publisher_confirms=confirms), doing="opening a channel")
        assert isinstance(channel, Channel)
        if lane is not None:
            self.wire.lanes[channel.number] = lane
        return channel

    async def close_channel(self, channel: Channel) -> None:
        """After what was written on it before. Never raises."""
        self.wire.flush()
        lane = self.wire.lanes.get(channel.number)
        with contextlib.suppress(FabricError):
            await self.ask(channel.close, doing="closing a channel")
        if lane is not None and self.wire.lanes.get(channel.number) is lane:
            del self.wire.lanes[channel.number]

    async def ask(self, question: Callable[[], Awaitable[T]], *, doing: str, name: str = "") -> T:
        """Await the broker's answer, for ``operation_timeout`` seconds, and no longer than the link lives.

        Raises:
            ConnectionLost, ConfigurationError, TopologyConflict: see ``amqp_errors``.
        """
        if self.lost.done():
            raise ConnectionLost(f"{doing}: {self.lost.result()}")
        try:
            async with asyncio.timeout(self._settings.operation_timeout):
                return await question()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # aiormq cancels what waits on a channel or connection that it closes
            why = self.lost.result() if self.lost.done() else "the channel was closed"
            raise ConnectionLost(f"{doing}: {why}") from error
        except FabricError:
            raise
        except Exception as error:
            if self.lost.done():
                raise ConnectionLost(f"{doing}: {self.lost.result()}") from error
            raise translate(error, doing=doing, name=name) from error

    @property
    def silence(self) -> float:
        """Seconds since anything came."""
        return self.wire.loop.time() - self.wire.received_at

    async def ping(self, *, timeout: float) -> float:
        """Seconds of one round trip to the broker's side of a channel.

        Raises:
            ConnectionLost: none within ``timeout`` seconds.
        """
        asked = self.wire.loop.time()
        question = self._question
        if question is None or question.done():
            self._question = question = self.wire.loop.create_task(self._ask_for_nothing())
            question.add_done_callback(_hear)
        # one that is still under way is joined, not cancelled: aiormq would close the channel
        waits: set[asyncio.Future[Any]] = {question, self.lost}
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if question.done() and not question.cancelled():
            question.result()
            return self.wire.loop.time() - asked
        raise ConnectionLost(self.lost.result() if self.lost.done() else f"no answer to a ping within {timeout:g} s")

    async def _ask_for_nothing(self) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            probe = await self.channel()
        await self.ask(lambda: probe.rpc(commands.Basic.Qos(prefetch_count=1)), doing="ping")
        # one that was given up, which on a blocked link is no sign of death, took its channel with it
        self._probe = probe

    def _on_lost(self, code: int, reason: str) -> None:
        if not self.lost.done():
            self.code = code
            self.lost.set_result(f"the broker closed it: {code} {reason}" if code else reason)

    def _on_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self.on_change()

    # -- the end --------------------------------------------------------------------------------------------------

    async def close(self, *, timeout: float) -> None:
        """Hand over what was written, say goodbye, close. Never raises; aborts after ``timeout`` seconds."""
        if self._connection is not None and not self.lost.done():
            self.wire.flush()
            closing = self.wire.loop.create_task(self._connection.close())
            await asyncio.wait({closing}, timeout=timeout)
            if not closing.done():
                self.wire.abort()
                await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
                closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
        await self.abort("closed by us")

    def drop(self, reason: str) -> None:
        """Let go of the socket at once."""
        if not self.lost.done():
            self.lost.set_result(reason)
        self.wire.lanes.clear()
        self.wire.abort()

    async def abort(self, reason: str) -> None:
        """``drop``, and see that aiormq's tasks end. Never raises."""
        self.drop(reason)
        if self._question is not None:
            self._question.cancel()
            await asyncio.gather(self._question, return_exceptions=True)
        connection = self._connection
        if connection is None or connection.is_closed:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.wait({asyncio.ensure_future(connection.closing)})


def _hear(question: asyncio.Task[None]) -> None:
    """Nobody may be waiting any more for the answer, and asyncio would complain of an error that nobody heard."""
    if not question.cancelled():
        question.exception()
