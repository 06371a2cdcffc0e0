"""Many hubs in one process, each with a small service: ``python -m benchmarks.hubs URL --first 0 --count 50 --of 200``.

Prints ``ready`` when all have found whom they call. For each ``{"seconds": 5}`` it reads, it prints what they sent and got
meanwhile, while nobody called anybody: announcements and heartbeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any, cast

from fabric import Hub, Service, rpc
from fabric.config import Settings
from fabric.coordination.agent import Agent
from fabric.loop import run
from fabric.transports.base import Consumer, Delivery, QueueSpec, Receiver, Transport
from fabric.transports.connect import transport_for

INSTANCES, CALLED = 5, 3
"""Instances of each service, and how many other services each instance calls."""

AT_ONCE = 10


class Tally:
    """What all hubs of this process sent and got."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0


class Counted:
    """A transport that counts messages, and is the one it wraps in everything else."""

    def __init__(self, transport: Transport, tally: Tally) -> None:
        self._transport, self._tally = transport, tally

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def post(self, *arguments: Any, **options: Any) -> bool:
        self._tally.sent += 1
        return self._transport.post(*arguments, **options)

    async def send(self, *arguments: Any, **options: Any) -> None:
        self._tally.sent += 1
        await self._transport.send(*arguments, **options)

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> Consumer:
        def counted(delivery: Delivery) -> None:
            self._tally.received += 1
            receiver(delivery)

        return await self._transport.consume(queue, counted, timeout=timeout)


def service_of(hub: int) -> str:
    return f"bench-{hub // INSTANCES}"


def called_by(hub: int, of: int) -> list[str]:
    """The services that it calls: the next ones, so that each is called by as many."""
    services = max(1, of // INSTANCES)
    own = hub // INSTANCES
    return sorted({f"bench-{(own + step) % services}" for step in range(1, CALLED + 1)} - {service_of(hub)})


def _service(called: str) -> Service:
    class Small(Service):
        name = called

        @rpc(idempotent=True)
        async def echo(self, text: str) -> str:
            return text

    return Small()


async def _hubs(url: str, first: int, count: int, of: int) -> None:
    tally = Tally()
    async with AsyncExitStack() as stack:
        hubs: dict[int, Hub] = {}

        async def one(number: int) -> None:
            settings = Settings()
            link = cast(Transport, Counted(transport_for(url, settings), tally))
            hub = await stack.enter_async_context(Hub.connect(service_of(number), transport=link, settings=settings))
            agent = Agent(hub, _service(service_of(number)))
            await agent.open(managed=False)
            stack.push_async_callback(agent.aclose)
            hubs[number] = hub

        for start in range(first, first + count, AT_ONCE):
            await asyncio.gather(*(one(number) for number in range(start, min(start + AT_ONCE, first + count))))
        for number, hub in hubs.items():
            await asyncio.gather(*(hub.find(called) for called in called_by(number, of)))
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            before = tally.sent, tally.received
            await asyncio.sleep(json.loads(line)["seconds"])
            print(json.dumps({"sent": tally.sent - before[0], "received": tally.received - before[1]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--of", type=int, required=True, help="hubs in all processes together")
    options = parser.parse_args()
    run(_hubs(options.url, options.first, options.count, options.of))


if __name__ == "__main__":
    main()
