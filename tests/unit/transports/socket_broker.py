"""Real processes around a socket: a broker, and a client that can be killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

BROKER = """
import asyncio, signal, sys
from fabric.transports.embedded_server import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it, and they their children
asyncio.run(serve(sys.argv[1], started=lambda: print("ready", flush=True)))
"""

CLIENT = """
import asyncio, sys
from fabric.transports.base import QueueSpec
from fabric.transports.embedded import EmbeddedTransport
from fabric.transports.topology import Topology

async def main():
    topology = Topology("unit")
    link = EmbeddedTransport(sys.argv[1], topology, instance="victim")
    await link.connect(timeout=10)
    await link.consume(topology.requests("victim"), lambda delivery: None, timeout=10)
    todo = topology.event_group("suite", ("todo.*",), prefetch=10, max_attempts=5, retry_delays=(0.05,))
    await link.consume(todo, lambda delivery: print("got", delivery.body.decode(), flush=True), timeout=10)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def running(program: str, path: Path) -> AsyncIterator[Process]:
    """A process of ``program`` on the socket ``path``, ready, and killed at the end."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(path), stdout=PIPE)
    try:
        assert await said(process) == "ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()
