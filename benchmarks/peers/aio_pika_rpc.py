"""aio-pika's own RPC pattern. It pickles, which costs less than encoding that is safe to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.patterns import RPC

from benchmarks.peers import Echo


def _method() -> Callable[..., Awaitable[str]]:
    """A new function each time, for it takes none twice."""

    async def echo(*, text: str) -> str:
        return text

    return echo


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        rpc = await RPC.create(await connection.channel())
        for service in services:
            await rpc.register(f"{service}.aio-pika", _method(), auto_delete=True)
        started()
        await asyncio.Event().wait()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        rpc = await RPC.create(await connection.channel())

        def echo(text: str, service: str) -> Awaitable[str]:
            return rpc.call(f"{service}.aio-pika", {"text": text}, expiration=10)

        yield echo
