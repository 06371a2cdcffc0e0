"""Lines over one TCP connection, answered in order: no routing, no broker, nothing that a service needs. The upper bound."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers import Echo


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    host, port = url.rsplit(":", 1)
    server = await asyncio.start_server(_answer, host, int(port))
    async with server:
        started()
        await server.serve_forever()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    host, port = url.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    waiting: deque[asyncio.Future[str]] = deque()
    loop = asyncio.get_running_loop()

    async def read() -> None:
        while line := await reader.readline():
            waiting.popleft().set_result(line[:-1].decode())

    reading = asyncio.create_task(read())

    async def echo(text: str, service: str) -> str:
        future: asyncio.Future[str] = loop.create_future()
        waiting.append(future)
        writer.write(text.encode() + b"\n")
        return await future

    try:
        yield echo
    finally:
        writer.close()
        reading.cancel()
