"""A TCP proxy that cuts links, or lets nothing pass on them."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit, urlunsplit


@dataclass(slots=True, eq=False)
class _Pair:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Stands between a client and a broker. ``async with Proxy(url) as proxy``: connect to ``proxy.url``.

    Links that are there may be ``cut`` (both ends see a reset) or ``pause``d (nothing passes in either direction and nobody is
    told, as when packets are dropped). New links are made until ``refuse``.

    Args:
        url: of the broker.
        tls: speak TLS to the client; the broker is still spoken to without.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._parts = parts._replace(scheme="amqps") if tls else parts
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._refusing = False
        self.accepted: list[float] = []

    @property
    def url(self) -> str:
        user = f"{self._parts.username}:{self._parts.password}@" if self._parts.username else ""
        return urlunsplit(self._parts._replace(netloc=f"{user}127.0.0.1:{self._port}"))

    @property
    def links(self) -> int:
        return len(self._pairs)

    async def __aenter__(self) -> Self:
        await self.allow()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def allow(self) -> None:
        """Take new links, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._tls)
            self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut what is there and refuse new links."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self._server.wait_closed()
            self._server = None

    def cut(self) -> None:
        """Reset every link."""
        for pair in list(self._pairs):
            pair.client.transport.abort()
            pair.server.transport.abort()
            pair.open.set()

    def pause(self) -> None:
        """Let nothing pass on the present links."""
        for pair in self._pairs:
            pair.open.clear()

    def resume(self) -> None:
        for pair in self._pairs:
            pair.open.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(asyncio.get_running_loop().time())
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._served(task, writer))

    def _served(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        """Also one that was cancelled before it began."""
        self._tasks.discard(task)
        writer.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._target)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await self._dial()
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(client=writer, server=back)
        pair.open.set()
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(pair, reader, back))
                group.create_task(self._pump(pair, there, writer))
        except* OSError:
            pass
        finally:
            self._pairs.discard(pair)
            writer.transport.abort()
            back.transport.abort()
            for end in (writer, back):
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pump(self, pair: _Pair, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            await pair.open.wait()
            sink.write(data)
            await sink.drain()
        await pair.open.wait()
        with contextlib.suppress(OSError):
            if sink.can_write_eof():
                sink.write_eof()
            else:  # TLS has no half-closed links
                sink.close()


class Balancer(Proxy):
    """Before several brokers of a cluster: each new link goes to the next one that takes it."""

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__(urls[0])
        self._targets = [(parts.hostname or "", parts.port or 5672) for parts in map(urlsplit, urls)]
        self._next = 0

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self._targets:
            target = self._targets[self._next % len(self._targets)]
            self._next += 1
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(*target)
        raise ConnectionRefusedError("no broker of the cluster takes links")
