"""Fabric as users get it: deadline, retry budget, priority and discovery on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from benchmarks.peers import Echo
from fabric import Hub, Service, rpc
from fabric.coordination.agent import Agent


class EchoService(Service):
    name = "bench-echo"

    @rpc(idempotent=True, concurrency=1000)
    async def echo(self, text: str) -> str:
        return text


async def serve(url: str, started: Callable[[], None]) -> None:
    async with Hub.connect(EchoService.name, url=url) as hub:
        agent = Agent(hub, EchoService())
        await agent.open(managed=False)
        started()
        try:
            await asyncio.Event().wait()
        finally:
            await agent.aclose()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    async with Hub.connect("bench-client", url=url) as hub:

        async def echo(text: str) -> str:
            return await hub.call("bench-echo", "echo", {"text": text}, returns=str, timeout=10.0)

        yield echo
