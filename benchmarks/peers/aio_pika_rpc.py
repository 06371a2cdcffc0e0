"""aio-pika's own RPC pattern with msgpack-like costs left out: it pickles, which is faster than what we do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.patterns import RPC

from benchmarks.peers import Echo


async def _echo(*, text: str) -> str:
    return text


async def serve(url: str, started: Callable[[], None]) -> None:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        rpc = await RPC.create(await connection.channel())
        await rpc.register("bench-aio-pika-echo", _echo, auto_delete=True)
        started()
        await asyncio.Event().wait()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    connection = await aio_pika.connect_robust(url)
    async with connection:
        rpc = await RPC.create(await connection.channel())

        async def echo(text: str) -> str:
            answer: str = await rpc.call("bench-aio-pika-echo", {"text": text}, expiration=10)
            return answer

        yield echo
