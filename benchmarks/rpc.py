"""Calls per second and latency, Fabric against its peers: interleaved rounds on the same broker, client and server in two
processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import psutil

from benchmarks.measure import machine, median, note, save, say, spread, table
from benchmarks.nats_server import nats_server
from benchmarks.peers import BROKERLESS, ON_NATS, PEERS
from tests.brokers.find import start_broker
from tests.brokers.node import free_port

NEEDS = {"faststream": "faststream", "grpc_asyncio": "grpc", "nats": "nats"}


def _command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.contestant", name, *arguments]


@contextmanager
def _server(name: str, url: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen(_command(name, "serve", url), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the server of {name} did not start")
        yield psutil.Process(process.pid)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # somebody else's broker, which ended meanwhile
        return 0.0
    return float(times.user + times.system)


def _broker_processes() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["name"]) if p.info["name"] in ("beam.smp", "nats-server")]


def _one_round(name: str, url: str, options: argparse.Namespace) -> dict[str, float]:
    with _server(name, url) as server:
        brokers = _broker_processes()
        server_before, broker_before = _cpu(server), sum(_cpu(p) for p in brokers)
        load = subprocess.run(
            _command(
                name,
                "load",
                url,
                f"--in-flight={options.in_flight}",
                f"--seconds={options.seconds}",
                f"--lone-seconds={options.lone_seconds}",
            ),
            capture_output=True,
            text=True,
            timeout=options.seconds + options.lone_seconds + 60,
        )
        if load.returncode != 0:
            raise RuntimeError(f"the load of {name} failed: {load.stderr.strip()[-500:]}")
        measured: dict[str, float] = json.loads(load.stdout)
        thousands = measured["calls"] / 1000
        measured["server_cpu_s_per_1000"] = (_cpu(server) - server_before) / thousands
        measured["broker_cpu_s_per_1000"] = (sum(_cpu(p) for p in brokers) - broker_before) / thousands
        measured["client_cpu_s_per_1000"] = measured.pop("client_cpu_s") / thousands
        measured["server_memory_mb"] = server.memory_info().rss / 2**20
    return measured


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks rpc", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of full load in each round")
    parser.add_argument("--lone-seconds", type=float, default=1.0, help="of one call at a time in each round")
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--peers", default=",".join(PEERS))
    options = parser.parse_args(arguments)
    facts = machine()
    rounds: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        broker = start_broker()
        stack.callback(broker.stop)
        nats = stack.enter_context(nats_server())
        urls = {}
        for name in options.peers.split(","):
            if name in NEEDS and find_spec(NEEDS[name]) is None:
                note(f"left out: {PEERS[name]} is not installed (pip install --group bench)")
            elif name in ON_NATS and nats is None:
                note("left out: nats-py, for there is no nats-server")
            else:
                urls[name] = nats if name in ON_NATS else broker.url
        for number in range(options.rounds):
            for name, url in urls.items():
                address = f"127.0.0.1:{free_port()}" if name in BROKERLESS else str(url)
                measured = _one_round(name, address, options)
                rounds.setdefault(name, []).append(measured)
                note(
                    f"round {number + 1}: {PEERS[name]}: {measured['calls_per_second']:,.0f} calls/s, "
                    f"lone p50 {measured['lone_p50_ms']:.2f} ms"
                )
    report(rounds, options, facts)
    return 0


def report(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace, facts: dict[str, Any]) -> None:
    medians = {name: {key: median([r[key] for r in results]) for key in results[0]} for name, results in rounds.items()}
    ours = medians.get("fabric")
    rows = []
    for name, m in sorted(medians.items(), key=lambda item: -item[1]["calls_per_second"]):
        rows.append(
            [
                PEERS[name],
                f"{m['calls_per_second']:,.0f}",
                spread([r["calls_per_second"] for r in rounds[name]]),
                f"{ours['calls_per_second'] / m['calls_per_second']:.2f}" if ours else "",
                f"{m['p50_ms']:.2f}",
                f"{m['p99_ms']:.2f}",
                f"{m['p999_ms']:.2f}",
                f"{m['lone_p50_ms']:.3f}",
                f"{m['client_cpu_s_per_1000']:.3f}",
                f"{m['server_cpu_s_per_1000']:.3f}",
                f"{m['broker_cpu_s_per_1000']:.3f}",
                f"{m['client_memory_mb']:.0f}",
            ]
        )
    say(
        f"{options.in_flight} calls in flight, 200 bytes, medians of {options.rounds} rounds;"
        " times in ms, CPU in s per 1,000 calls"
    )
    table(
        ["", "calls/s", "spread", "Fabric is", "p50", "p99", "p99.9", "lone p50", "client", "server", "broker", "MB"],
        rows,
    )
    say(f"written to {save('rpc', {'machine': facts, 'options': vars(options), 'medians': medians, 'rounds': rounds})}")
