"""Calls per second, Fabric against its peers: interleaved rounds on the same broker, client and server in two processes."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from benchmarks.broker import rabbitmq
from benchmarks.compiled import NAME as COMPILED
from benchmarks.contest import contest, contestants
from benchmarks.measure import Result, Rounds, Table, machine, medians, note, ratio, spread
from benchmarks.nats_server import nats_server
from benchmarks.peers import PEERS
from benchmarks.plot import bars


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks rpc", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of full load in each round")
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--peers", default=",".join(PEERS))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    facts = machine()
    rounds: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        broker, nats = stack.enter_context(rabbitmq()), stack.enter_context(nats_server())
        found = contestants(options.peers.split(","), broker, nats)
        for number in range(options.rounds):
            for name, its_broker in found.items():
                with contest(name, its_broker) as pair:
                    measured = pair.do(do="closed", in_flight=options.in_flight, seconds=options.seconds)
                rounds.setdefault(name, []).append(measured)
                note(f"rpc, round {number + 1}: {PEERS[name]}: {measured['calls_per_second']:,.0f} calls/s")
        versions = f"RabbitMQ {broker.version}" + (f", nats-server {nats.version}" if nats else ", no nats-server")
    return _result(rounds, options, facts, versions).finish()


def _result(rounds: Rounds, options: argparse.Namespace, facts: dict[str, object], versions: str) -> Result:
    middle = medians(rounds)
    ordered = sorted(middle, key=lambda name: -middle[name]["calls_per_second"])
    compared = "fabric" in rounds
    ratios = {name: ratio(rounds, "fabric", name, "calls_per_second") for name in ordered} if compared else {}
    rows = []
    for name in ordered:
        m = middle[name]
        rows.append(
            [
                PEERS[name],
                f"{m['calls_per_second']:,.0f}",
                spread([r["calls_per_second"] for r in rounds[name]]),
                f"{ratios[name]:.2f}" if compared else "",
                *(f"{m[key]:.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")),
                *(f"{m[f'{part}_cpu_s_per_1000']:.3f}" for part in ("client", "server", "broker")),
                f"{ratio(rounds, name, 'fabric', 'cpu_s_per_1000'):.2f}" if compared else "",
                f"{m['client_memory_mb']:.0f}",
            ]
        )
    shown = {PEERS[name]: middle[name]["calls_per_second"] for name in sorted(ordered, key=lambda name: name != "fabric")}
    values = {f"to_{name}": value for name, value in ratios.items() if name != "fabric"}
    if COMPILED in rounds:
        others = [name for name in ordered if name != COMPILED]
        values |= {f"compiled_to_{name}": ratio(rounds, COMPILED, name, "calls_per_second") for name in others}
    return Result(
        name="rpc",
        machine=facts,
        options=options,
        notes=(
            f"{options.in_flight} calls in flight, 200 bytes, {versions}, medians of {options.rounds} rounds.",
            "Fabric is: so many times as fast, the median of the ratios within each round."
            " Times in ms; client, server, broker: processor seconds per 1,000 calls; CPU: all three, as a multiple"
            " of Fabric's, which a busy machine disturbs least; MB: the client's peak.",
        ),
        tables=(
            Table(
                title="Calls per second",
                head=("", "calls/s", "spread", "Fabric is", "p50", "p99", "p99.9", "client", "server", "broker", "CPU", "MB"),
                rows=rows,
            ),
        ),
        values=values,
        rounds=rounds,
        plots={"rpc": bars("calls per second", shown)},
    )
