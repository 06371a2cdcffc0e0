"""FastStream's request/response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from faststream.rabbit import RabbitBroker

from benchmarks.peers import Echo

_QUEUE = "bench-faststream-echo"


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    broker = RabbitBroker(url, logger=None)

    @broker.subscriber(_QUEUE)
    async def echo(text: str) -> str:
        return text

    await broker.start()
    started()
    try:
        await asyncio.Event().wait()
    finally:
        await broker.stop()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    broker = RabbitBroker(url, logger=None)
    await broker.start()

    async def echo(text: str, service: str) -> str:
        answer = await broker.request(text, queue=_QUEUE, timeout=10.0)
        return str(await answer.decode())

    try:
        yield echo
    finally:
        await broker.stop()
