"""How long a call takes: alone, and at half of the highest rate, which starts calls by the clock whatever is answered."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from benchmarks.broker import Broker, rabbitmq
from benchmarks.compiled import NAME as COMPILED
from benchmarks.contest import contest, contestants
from benchmarks.measure import Result, Rounds, Table, machine, median, medians, note, ratio, spread
from benchmarks.nats_server import nats_server
from benchmarks.pauses import Host, pauses
from benchmarks.peers import PEERS
from benchmarks.plot import bars

NAMES = ("fabric", COMPILED, "aiormq_direct", "aio_pika_rpc", "grpc_asyncio", "nats")
IN_FLIGHT = 100


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks latency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of the four loads in each round")
    parser.add_argument("--peers", default=",".join(NAMES))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    facts = machine()
    with ExitStack() as stack:
        broker, nats = stack.enter_context(rabbitmq()), stack.enter_context(nats_server())
        found = contestants(options.peers.split(","), broker, nats)
        rounds, lost = _rounds(found, options)
    return _result(rounds, lost, options, facts).finish()


def _rounds(
    found: Mapping[str, Broker], options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, float]]], list[dict[str, float]]]:
    """Of each contestant, and of the machine beside them."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    lost: list[dict[str, float]] = []
    for number in range(options.rounds):
        lost.append(pauses(options.seconds))
        for name, broker in found.items():
            with contest(name, broker) as pair:
                lone = pair.do(do="closed", in_flight=1, seconds=options.seconds)
                peak = pair.do(do="closed", in_flight=IN_FLIGHT, seconds=options.seconds)["calls_per_second"]
                host = Host()
                half = pair.do(do="open", rate=peak / 2, seconds=options.seconds)
                taken = host.share()
                nothing = pair.do(do="open", rate=peak / 2, seconds=options.seconds, nothing=True)
            keys = ("p50_ms", "p99_ms", "p999_ms")
            measured = {
                **{f"lone_{key}": lone[key] for key in keys},
                **{f"half_{key}": half[key] for key in keys},
                "nothing_p99_ms": nothing["p99_ms"],
                "peak": peak,
                "asked": peak / 2,
                "half_p99_to_lone_p50": half["p99_ms"] / lone["p50_ms"],
                "stolen": taken,
            }
            rounds[name].append(measured)
            note(
                f"latency, round {number + 1}: {PEERS[name]}: alone p50 {measured['lone_p50_ms']:.2f} ms,"
                f" at {peak / 2:,.0f}/s p99 {measured['half_p99_ms']:.2f} ms"
            )
    return rounds, lost


def _result(rounds: Rounds, lost: Sequence[Mapping[str, float]], options: argparse.Namespace, facts: dict[str, object]) -> Result:
    middle = medians(rounds)
    values = {}
    for name, prefix in (("fabric", ""), (COMPILED, "compiled_")):
        if name in rounds:
            values[f"{prefix}half_p99_to_lone_p50"] = middle[name]["half_p99_to_lone_p50"]
            if "aiormq_direct" in rounds:
                values[f"{prefix}lone_to_aiormq"] = ratio(rounds, name, "aiormq_direct", "lone_p50_ms")
    return Result(
        name="latency",
        machine=facts,
        options=options,
        notes=(
            f"Milliseconds, 200 bytes, medians of {options.rounds} rounds. Half: calls started by the clock at half of the rate"
            f" that the same pair had just reached with {IN_FLIGHT} in flight; a call's time counts from when it was due,"
            " so no wait is left out.",
            "Nothing: p99 of the same load right after, with calls that ask nobody: what the generator and the machine have,"
            " with one process busy. Stolen: of the processors' time at half of the peak, what the host gave to others. Last: p99"
            " at half of the peak over the p50 of lone calls, in the middle of all rounds, and from the best to the worst.",
            f"Pauses: before each round two plain loops ran beside each other for {options.seconds:g} seconds and were stopped"
            f" for {_percent(lost)} of them in all, for at most {max(each['longest_ms'] for each in lost):.1f} ms at once. A call"
            " meets the pauses of both its processes: where these take more than 1 %, its p99 is one of them.",
        ),
        tables=(
            Table(
                title="Latency",
                head=(
                    "",
                    "lone p50",
                    "p99",
                    "p99.9",
                    "calls/s asked",
                    "half p50",
                    "p99",
                    "p99.9",
                    "nothing p99",
                    "stolen",
                    "half p99 / lone p50",
                    "spread",
                ),
                rows=[
                    _row(name, middle[name], rounds[name])
                    for name in sorted(middle, key=lambda name: middle[name]["lone_p50_ms"])
                ],
            ),
        ),
        values=values,
        rounds={**rounds, "pauses": lost},
        plots={"latency": bars("p50 of lone calls, ms", {PEERS[name]: m["lone_p50_ms"] for name, m in middle.items()})},
    )


def _percent(lost: Sequence[Mapping[str, float]]) -> str:
    shares = sorted(each["share"] for each in lost)
    return f"{shares[0]:.1%} to {shares[-1]:.1%} ({median(shares):.1%} in the middle)"


def _row(name: str, m: Mapping[str, float], rounds: Sequence[Mapping[str, float]]) -> Sequence[str]:
    return [
        PEERS[name],
        *(f"{m[f'lone_{key}_ms']:.3f}" for key in ("p50", "p99", "p999")),
        f"{m['asked']:,.0f}",
        *(f"{m[f'half_{key}_ms']:.2f}" for key in ("p50", "p99", "p999")),
        f"{m['nothing_p99_ms']:.2f}",
        f"{m['stolen']:.1%}",
        f"{m['half_p99_to_lone_p50']:.1f}",
        spread([each["half_p99_to_lone_p50"] for each in rounds]),
    ]
