"""The embedded broker: the memory broker served on a Unix socket.

It lets ``fabric up`` run a real fleet of processes on one machine with nothing installed. Single machine and not durable:
nothing outlives this process, whatever a queue is called. A team that outgrows it takes RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fabric.clock import Clock
from fabric.transports.embedded_connection import EmbeddedConnection
from fabric.transports.memory import DEFAULT_MAX_BODY, MemoryNetwork
from fabric.transports.socket_claim import SocketClaim

_BACKLOG = 1024
_LEAVE = 2.0


class EmbeddedServer:
    """Serves a ``MemoryNetwork`` on ``path``, to processes of the same user only. Knows no topology: clients declare theirs.

    Args:
        path: of the socket; what a dead server left there is taken over.
        max_body: bytes that a message may have; more in a frame drops the client before memory is taken for it.
        most_bytes: of messages held at which it takes no more publishes until there is room again.
        clock: of the broker.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_body: int = DEFAULT_MAX_BODY,
        most_bytes: int = 512 * 1024 * 1024,
        clock: Clock | None = None,
    ) -> None:
        self.path = Path(path)
        self.network = MemoryNetwork(clock=clock, most_bytes=most_bytes)
        self._max_body = max_body
        self._claim: SocketClaim | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[EmbeddedConnection] = set()
        self._empty = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: another live server has the path, or it can't be used.
        """
        self._claim = SocketClaim(self.path)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._connected, sock=self._claim.socket, backlog=_BACKLOG
            )
        except BaseException:
            self._claim.close()
            raise

    async def aclose(self) -> None:
        """Drop all clients and remove the socket. Idempotent, at most a few seconds."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()
        await self._wait_empty()
        await self.network.aclose()
        if self._claim is not None:
            self._claim.close()

    async def _wait_empty(self) -> None:
        try:
            async with asyncio.timeout(_LEAVE):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.sever("the broker goes down")

    def _connected(self) -> EmbeddedConnection:
        connection = EmbeddedConnection(self.network, max_body=self._max_body, ended=self._ended)
        self._connections.add(connection)
        return connection

    def _ended(self, connection: EmbeddedConnection) -> None:
        self._connections.discard(connection)
        self._empty.set()


async def serve(path: str | Path, *, started: Callable[[], None] | None = None) -> None:
    """Run an embedded broker until cancelled, and leave nothing behind.

    Args:
        path: of its socket.
        started: called once it listens.

    Raises:
        ConfigurationError: another live server has the path, or it can't be used.
    """
    async with EmbeddedServer(path):
        if started is not None:
            started()
        await asyncio.Event().wait()
