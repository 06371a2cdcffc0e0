"""Mixed destinations: one client calls 20 services, five calls in flight to each; four processes have five services each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.broker import Broker, rabbitmq
from benchmarks.compiled import NAME as COMPILED
from benchmarks.compiled import environment_of
from benchmarks.contest import MODULE, Contest, contestants
from benchmarks.measure import Result, Rounds, Table, machine, medians, note, ratio, spread
from benchmarks.peers import MANY, PEERS
from benchmarks.plot import bars
from benchmarks.side import Side, side

PROCESSES, SERVICES_EACH, IN_FLIGHT_EACH = 4, 5, 5


@contextmanager
def _contest(name: str, broker: Broker) -> Iterator[Contest]:
    groups = [[f"bench-echo-{group}-{place}" for place in range(SERVICES_EACH)] for group in range(PROCESSES)]
    with ExitStack() as stack:

        def started(act: str, services: str) -> Side:
            arguments = MODULE, name, act, broker.url, f"--services={services}"
            return stack.enter_context(side(*arguments, environment=environment_of(name)))

        servers = [started("serve", ",".join(group)) for group in groups]
        client = started("load", ",".join(service for group in groups for service in group))
        yield Contest(client=client, servers=servers, broker=broker)


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fan-out", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    facts = machine()
    rounds: dict[str, list[dict[str, float]]]
    in_flight = PROCESSES * SERVICES_EACH * IN_FLIGHT_EACH
    with rabbitmq() as broker:
        rounds = {name: [] for name in contestants([name for name in PEERS if name in MANY], broker, None)}
        for number in range(options.rounds):
            for name, results in rounds.items():
                with _contest(name, broker) as contest:
                    results.append(contest.do(do="closed", in_flight=in_flight, seconds=options.seconds))
                note(f"fan-out, round {number + 1}: {PEERS[name]}: {results[-1]['calls_per_second']:,.0f} calls/s")
    return _result(rounds, options, facts).finish()


def _result(rounds: Rounds, options: argparse.Namespace, facts: dict[str, object]) -> Result:
    middle = medians(rounds)
    rows = [
        [
            PEERS[name],
            f"{m['calls_per_second']:,.0f}",
            spread([r["calls_per_second"] for r in rounds[name]]),
            *(f"{m[key]:.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")),
            *(f"{m[f'{part}_cpu_s_per_1000']:.3f}" for part in ("client", "server", "broker")),
        ]
        for name, m in middle.items()
    ]
    faster = ratio(rounds, "fabric", "aio_pika_rpc", "calls_per_second")
    values = {"to_aio_pika_rpc": faster}
    if COMPILED in rounds:
        values["compiled_to_aio_pika_rpc"] = ratio(rounds, COMPILED, "aio_pika_rpc", "calls_per_second")
    return Result(
        name="fan-out",
        machine=facts,
        options=options,
        notes=(
            f"{PROCESSES * SERVICES_EACH} services in {PROCESSES} processes of {SERVICES_EACH}, {IN_FLIGHT_EACH} calls in flight"
            f" to each from one client, 200 bytes, medians of {options.rounds} rounds. Each of Fabric's services has a hub and"
            " two connections of its own; aio-pika's five share one.",
            f"Fabric has {faster:.2f} × the calls/s (median of the ratios within each round)."
            " Times in ms; client, servers, broker: processor seconds per 1,000 calls; all together aio-pika's are"
            f" {ratio(rounds, 'aio_pika_rpc', 'fabric', 'cpu_s_per_1000'):.2f} × Fabric's.",
        ),
        tables=(
            Table(
                title="Mixed destinations",
                head=("", "calls/s", "spread", "p50", "p99", "p99.9", "client", "servers", "broker"),
                rows=rows,
            ),
        ),
        values=values,
        rounds=rounds,
        plots={"fan-out": bars("calls per second", {PEERS[name]: m["calls_per_second"] for name, m in middle.items()})},
    )
