"""One side of one measurement in a process of its own: ``python -m benchmarks.contestant NAME serve|load URL [options]``.

``serve`` prints ``ready`` and echoes until its standard input ends. ``load`` prints one JSON line with what it measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time

from benchmarks.peers import Echo, peer
from fabric.loop import run

PAYLOAD = "x" * 200


def quantile(values: list[float], share: float) -> float:
    """Of sorted values, the one below which that share lies."""
    return values[min(len(values) - 1, int(share * len(values)))]


async def _serve(name: str, url: str) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(peer(name).serve(url, lambda: print("ready", flush=True)))
    ended = loop.run_in_executor(None, sys.stdin.read)
    await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def _calls(echo: Echo, in_flight: int, seconds: float) -> tuple[list[float], float]:
    """Latencies in seconds, sorted, and the time it all took."""
    latencies: list[float] = []
    clock = time.perf_counter
    begin = clock()
    end = begin + seconds

    async def worker() -> None:
        while (start := clock()) < end:
            if await echo(PAYLOAD) != PAYLOAD:
                raise RuntimeError("another answer than the echo")
            latencies.append(clock() - start)

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    taken = clock() - begin
    latencies.sort()
    return latencies, taken


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _load(name: str, url: str, in_flight: int, seconds: float, lone_seconds: float) -> None:
    async with peer(name).connect(url) as echo:
        await _calls(echo, min(in_flight, 20), 0.3)
        before = _cpu()
        latencies, taken = await _calls(echo, in_flight, seconds)
        cpu = _cpu() - before
        lone, _ = await _calls(echo, 1, lone_seconds) if lone_seconds else ([0.0], 0.0)
    print(
        json.dumps(
            {
                "calls": len(latencies),
                "calls_per_second": len(latencies) / taken,
                "p50_ms": quantile(latencies, 0.5) * 1e3,
                "p99_ms": quantile(latencies, 0.99) * 1e3,
                "p999_ms": quantile(latencies, 0.999) * 1e3,
                "lone_p50_ms": quantile(lone, 0.5) * 1e3,
                "lone_p99_ms": quantile(lone, 0.99) * 1e3,
                "client_cpu_s": cpu,
                "client_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("side", choices=("serve", "load"))
    parser.add_argument("url")
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--lone-seconds", type=float, default=1.0)
    options = parser.parse_args()
    if options.side == "serve":
        run(_serve(options.name, options.url))
    else:
        run(_load(options.name, options.url, options.in_flight, options.seconds, options.lone_seconds))


if __name__ == "__main__":
    main()
