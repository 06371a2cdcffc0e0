"""One side of a contest of calls: ``python -m benchmarks.contestant NAME serve|load URL [options]``.

Both print ``ready``. ``serve`` echoes until its input ends. ``load`` reads one JSON object a line with what to do, and prints one
with what it measured: ``{"do": "closed", "in_flight": 100, "seconds": 2}`` or ``{"do": "open", "rate": 500, "seconds": 2}``,
which with ``"nothing": true`` calls nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.load import Call, closed, open_loop
from benchmarks.peers import SERVICE, Echo, peer
from fabric.loop import run

WARM_UP = 0.3


async def _serve(name: str, url: str, services: tuple[str, ...]) -> None:
    serving = asyncio.create_task(peer(name).serve(url, lambda: print("ready", flush=True), services))
    # Nothing is ever sent to a server, so that its input is readable means that it ended.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def _call(echo: Echo, service: str, payload: str) -> Call:
    return Call(partial(echo, payload, service), payload)


async def _nothing() -> None:
    """A call that is answered in the next turn of the loop: what a load costs and shows without anybody to call."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()
    loop.call_soon(answer.set_result, None)
    await answer


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _do(order: dict[str, Any], echo: Echo, services: tuple[str, ...]) -> dict[str, float]:
    calls = [_call(echo, service, "x" * order.get("bytes", 200)) for service in services]
    before = _cpu()
    if order["do"] == "open":
        call = Call(_nothing, None) if order.get("nothing") else calls[0]
        measured = await open_loop(call, order["rate"], order["seconds"])
    else:
        measured = await closed([calls[turn % len(calls)] for turn in range(order["in_flight"])], order["seconds"])
    return {
        "calls": len(measured.latencies),
        "calls_per_second": measured.per_second,
        "client_cpu_s": _cpu() - before,
        "client_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **measured.quantiles(),
    }


async def _load(name: str, url: str, services: tuple[str, ...]) -> None:
    loop = asyncio.get_running_loop()
    async with peer(name).connect(url) as echo:
        await closed([_call(echo, service, "x" * 200) for service in services], WARM_UP)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await _do(json.loads(line), echo, services)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("side", choices=("serve", "load"))
    parser.add_argument("url")
    parser.add_argument("--services", default=SERVICE, help="names, with commas between")
    options = parser.parse_args()
    act = _serve if options.side == "serve" else _load
    peer(options.name)  # what is loaded before it runs is never searched for garbage, for each of them
    run(act(options.name, options.url, tuple(options.services.split(","))))


if __name__ == "__main__":
    main()
