"""An HTTP server inside a service: it begins and ends with the service, not with the process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator

import uvicorn
from starlette.applications import Starlette

PORTS_TRIED = 10


class NoFreePort(OSError):
    """All ports from ``first`` on are taken."""

    def __init__(self, host: str, first: int) -> None:
        super().__init__(
            errno.EADDRINUSE, f"ports {first} to {first + PORTS_TRIED - 1} of {host} are taken; give another or 0 for any"
        )


class _Server(uvicorn.Server):
    """Without the signal handlers, which belong to the process, and with an event in place of a flag to poll."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class HttpServer:
    """Serves one application on one port.

    Args:
        host: address to bind; 127.0.0.1 is reachable from this machine only.
        port: the first of ten to try, so that several instances fit on one machine; 0 lets the system choose.
    """

    GRACE_SECONDS = 5.0

    def __init__(self, application: Starlette, host: str, port: int) -> None:
        self._application, self._host, self._first = application, host, port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    @property
    def is_up(self) -> bool:
        return self._task is not None and not self._task.done() and self._server is not None and self._server.started

    async def start(self, timeout: float = 10.0) -> None:
        """Returns when it takes connections.

        Raises:
            NoFreePort, OSError: it can't have the address.
            TimeoutError: it does not listen within ``timeout`` seconds.
        """
        listener = _listener(self._host, self._first)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._application,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(self.GRACE_SECONDS),
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="http server")
        async with asyncio.timeout(timeout):
            await self._server.listening.wait()

    async def aclose(self) -> None:
        """Take no more connections, finish what was begun within ``GRACE_SECONDS``, and end. Idempotent."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        _, late = await asyncio.wait({self._task}, timeout=self.GRACE_SECONDS + 2.0)
        for task in late:
            task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _listener(host: str, first: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(first, first + PORTS_TRIED) if first else (0,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            listener.setblocking(False)
            return listener
    raise NoFreePort(host, first)
