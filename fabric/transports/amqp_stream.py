"""A RabbitMQ stream that is read from its first record on, and appended to: over AMQP 0-9-1, on a link of its own.

A record counts as written when it has been read back: readers only see what a majority has stored, and see it in order, so
whoever reads his own record knows all that came before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from pamqp import commands

from fabric.errors import ConfigurationError, ConnectionLost, FabricError, TransportClosed
from fabric.tasks import Tasks
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_settings import AmqpSettings

T = TypeVar("T")

_log = logging.getLogger("fabric.transports.amqp")

_PREFETCH = 500
_WATCH_SECONDS = 2.0
_PAUSE_SECONDS = 0.5
_REMEMBERED = 1000
"""Records that may be written twice, because a link was lost, are told by their ids."""
STREAM_ARGUMENTS: Mapping[str, Any] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 256 * 1024 * 1024,
    "x-stream-max-segment-size-bytes": 16 * 1024 * 1024,
}


class AmqpStream(Generic[T]):
    """The stream ``name``, made where it is missing.

    When the link is lost it is opened again, reading goes on where it ended, and what was not read back is written again.

    Args:
        take: called in the event loop with the offset and body of each record, in order and each once. What it returns is
            the answer to whoever appended the record here.
        exchange, key: by which records reach the stream; on a topic exchange, rights can be given on the key. By default the
            exchange that every queue is bound to by its name, which takes the right to write to all of them.
    """

    def __init__(
        self, settings: AmqpSettings, name: str, take: Callable[[int, bytes], T], *, exchange: str = "", key: str = ""
    ) -> None:
        self._settings, self._name, self._take = settings, name, take
        self._exchange, self._key = exchange, key or name
        self._next: int | None = None
        self._unread: dict[str, tuple[bytes, asyncio.Future[T]]] = {}
        self._seen: deque[str] = deque(maxlen=_REMEMBERED)
        self._channel: Channel | None = None
        self._link: Link | None = None
        self._tasks = Tasks(f"stream {name}")
        self._closed = False

    async def open(self) -> None:
        """Be connected, and go on reading in the background.

        Raises:
            ConnectionLost, ConfigurationError, TopologyConflict: it can't be used.
        """
        link, tag = await self._connect()
        self._tasks.start(self._work(link, tag), "read")

    async def append(self, body: bytes, *, timeout: float) -> T:
        """What ``take`` said of it, when it has been read back.

        Raises:
            ConnectionLost: not within ``timeout`` seconds; it may be written all the same.
            TransportClosed: closed by us.
        """
        if self._closed:
            raise TransportClosed(f"the stream {self._name} is closed")
        id = uuid.uuid4().hex
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._unread[id] = (body, future)
        try:
            async with asyncio.timeout(timeout):
                if self._channel is not None:
                    # If this fails the link is lost, and it is written again on the next one.
                    with contextlib.suppress(Exception):
                        await self._publish(self._channel, id, body)
                return await future
        except TimeoutError:
            raise ConnectionLost(f"the stream {self._name} did not take a record within {timeout:g} s") from None
        finally:
            self._unread.pop(id, None)

    async def aclose(self) -> None:
        """Idempotent."""
        self._closed = True
        await self._tasks.aclose()
        link, self._link = self._link, None
        if link is not None:
            await link.close(timeout=1.0)
        for _, future in self._unread.values():
            if not future.done():
                future.set_exception(TransportClosed(f"the stream {self._name} was closed"))

    # ------------------------------------------------------------ the link

    async def _work(self, link: Link, tag: str) -> None:
        while True:
            reason = await self._until_lost(link, tag)
            self._channel = None
            await link.abort(reason)
            _log.warning("the stream %s is read again: %s", self._name, reason)
            while True:
                try:
                    link, tag = await self._connect()
                    break
                except FabricError as error:
                    level = logging.ERROR if isinstance(error, ConfigurationError) else logging.DEBUG
                    _log.log(level, "the stream %s can't be read: %s", self._name, error)
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _connect(self) -> tuple[Link, str]:
        link = await Link.open(self._settings, "journal")
        try:
            channel = await link.channel()
            doing = f"declaring the stream {self._name!r}"
            await link.ask(
                lambda: channel.queue_declare(self._name, durable=True, arguments=dict(STREAM_ARGUMENTS)),
                doing=doing,
                name=self._name,
            )
            if self._exchange:
                await link.ask(lambda: channel.queue_bind(self._name, self._exchange, self._key), doing="binding the stream")
            await link.ask(lambda: channel.basic_qos(prefetch_count=_PREFETCH), doing="asking for a prefetch")
            offset: Any = "first" if self._next is None else self._next
            consumed = await link.ask(
                lambda: channel.basic_consume(self._name, self._receiver(channel), arguments={"x-stream-offset": offset}),
                doing=f"reading the stream {self._name!r}",
                name=self._name,
            )
            for id, (body, _) in tuple(self._unread.items()):
                await link.ask(partial(self._publish, channel, id, body), doing="writing again")
        except BaseException:
            await link.abort("it could not be used")
            raise
        self._link, self._channel = link, channel
        return link, str(consumed.consumer_tag)

    async def _until_lost(self, link: Link, tag: str) -> str:
        """Returns why. A consumer that the broker cancelled, or one on a channel that it closed, is as good as lost."""
        channel = self._channel
        while True:
            await asyncio.wait((link.lost,), timeout=_WATCH_SECONDS)
            if link.lost.done():
                return link.lost.result()
            if channel is None or channel.is_closed or tag not in channel.consumers:
                return "the broker ended the reading"
            try:
                await link.ping(timeout=self._settings.ping_timeout)
            except FabricError as error:
                return str(error)

    async def _publish(self, channel: Channel, id: str, body: bytes) -> None:
        properties = commands.Basic.Properties(delivery_mode=2, message_id=id)
        await channel.basic_publish(body, exchange=self._exchange, routing_key=self._key, properties=properties, wait=False)

    def _receiver(self, channel: Channel) -> Callable[[DeliveredMessage], Any]:
        async def receive(message: DeliveredMessage) -> None:
            if message.delivery_tag is not None:
                await channel.basic_ack(message.delivery_tag, wait=False)
            headers = message.header.properties.headers or {}
            offset = headers.get("x-stream-offset")
            if isinstance(offset, int):
                self._read(offset, message.header.properties.message_id or "", bytes(message.body))

        return receive

    def _read(self, offset: int, id: str, body: bytes) -> None:
        # A reader who asks for an offset is given the whole chunk that holds it.
        if self._next is not None and offset < self._next:
            return
        self._next = offset + 1
        if id in self._seen:
            return
        self._seen.append(id)
        _, future = self._unread.get(id, (b"", None))
        try:
            answer = self._take(offset, body)
        except FabricError as error:
            _log.error("record %d of the stream %s: %s", offset, self._name, error)
            if future is not None and not future.done():
                future.set_exception(error)
            return
        if future is not None and not future.done():
            future.set_result(answer)
