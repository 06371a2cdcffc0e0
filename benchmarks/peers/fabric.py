"""Fabric as users get it: deadline, retry budget, priority and discovery on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from benchmarks.peers import Echo
from fabric import Hub, Service, rpc
from fabric.coordination.agent import Agent


def _echo_service(called: str) -> Service:
    class EchoService(Service):
        name = called

        @rpc(idempotent=True, concurrency=1000)
        async def echo(self, text: str) -> str:
            return text

    return EchoService()


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    """Each service with a hub of its own, as if it had its own process."""
    async with AsyncExitStack() as stack:
        for name in services:
            hub = await stack.enter_async_context(Hub.connect(name, url=url))
            agent = Agent(hub, _echo_service(name))
            await agent.open(managed=False)
            stack.push_async_callback(agent.aclose)
        started()
        await asyncio.Event().wait()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    async with Hub.connect("bench-client", url=url) as hub:

        def echo(text: str, service: str) -> Awaitable[str]:
            return hub.call(service, "echo", {"text": text}, returns=str, timeout=10.0)

        yield echo
