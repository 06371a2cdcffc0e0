"""nats-py's request over a nats-server, which is another broker: the mark to pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import nats
from nats.aio.msg import Msg

from benchmarks.peers import Echo


async def _answer(message: Msg) -> None:
    await message.respond(message.data)


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    client = await nats.connect(url)
    await client.subscribe("bench.echo", cb=_answer)
    await client.flush()
    started()
    try:
        await asyncio.Event().wait()
    finally:
        await client.close()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    client = await nats.connect(url)

    async def echo(text: str, service: str) -> str:
        return (await client.request("bench.echo", text.encode(), timeout=10.0)).data.decode()

    try:
        yield echo
    finally:
        await client.close()
