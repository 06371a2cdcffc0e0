"""Durable events a second, from ``publish`` to the subscriber's acknowledgement: Fabric against aio-pika, alternating."""

from __future__ import annotations

import argparse
import json

from benchmarks.broker import Broker, rabbitmq
from benchmarks.measure import Result, Rounds, Table, machine, medians, note, ratio, spread
from benchmarks.plot import bars
from benchmarks.side import side

TITLES = {"fabric": "Fabric", "aio_pika": "aio-pika"}
TASKS = 100
CATCH_UP = 60.0
MODULE = "benchmarks.event_side"


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks events", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    facts = machine()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in TITLES}
    with rabbitmq() as broker:
        for number in range(options.rounds):
            for name, results in rounds.items():
                results.append(_one(name, broker, options.seconds))
                note(f"events, round {number + 1}: {TITLES[name]}: {results[-1]['through_per_second']:,.0f}/s")
    return _result(rounds, options, facts).finish()


def _one(name: str, broker: Broker, seconds: float) -> dict[str, float]:
    with side(MODULE, name, "subscribe", broker.url) as subscriber, side(MODULE, name, "publish", broker.url) as publisher:
        for length in (0.2, seconds):  # the first is to warm up
            before = publisher.cpu(), subscriber.cpu(), broker.cpu()
            publisher.tell(json.dumps({"seconds": length, "tasks": TASKS}))
            sent = publisher.answer()
            subscriber.tell(json.dumps({"count": sent["events"], "timeout": CATCH_UP}))
            handled = subscriber.answer(timeout=CATCH_UP + 5)["handled"]
            after = publisher.cpu(), subscriber.cpu(), broker.cpu()
    thousands = sent["events"] / 1000
    spent = [(end - start) / thousands for start, end in zip(before, after, strict=True)]
    return {
        "events": sent["events"],
        "confirmed_per_second": sent["events"] / (sent["confirmed"] - sent["began"]),
        "through_per_second": sent["events"] / (handled - sent["began"]),
        **dict(zip(("publisher_cpu", "subscriber_cpu", "broker_cpu"), spent, strict=True)),
        "cpu": sum(spent),
    }


def _result(rounds: Rounds, options: argparse.Namespace, facts: dict[str, object]) -> Result:
    middle = medians(rounds)
    rows = [
        [
            TITLES[name],
            f"{m['through_per_second']:,.0f}",
            spread([r["through_per_second"] for r in rounds[name]]),
            f"{m['confirmed_per_second']:,.0f}",
            *(f"{m[f'{part}_cpu']:.3f}" for part in ("publisher", "subscriber", "broker")),
        ]
        for name, m in middle.items()
    ]
    faster = ratio(rounds, "fabric", "aio_pika", "through_per_second")
    return Result(
        name="events",
        machine=facts,
        options=options,
        notes=(
            f"200 bytes, persistent, a quorum queue on both sides, {TASKS} tasks that each await the broker's confirm,"
            f" 1,000 unacknowledged at most; medians of {options.rounds} rounds.",
            "Through: confirmed, handled by the subscriber, and settled one by one."
            f" Fabric lets {faster:.2f} × as many through (median of the ratios within each round)."
            " Publisher, subscriber, broker: processor seconds per 1,000 events; all together aio-pika's are"
            f" {ratio(rounds, 'aio_pika', 'fabric', 'cpu'):.2f} × Fabric's.",
        ),
        tables=(
            Table(
                title="Durable events per second",
                head=("", "through", "spread", "confirmed", "publisher", "subscriber", "broker"),
                rows=rows,
            ),
        ),
        values={"to_aio_pika": faster},
        rounds=rounds,
        plots={"events": bars("events per second", {TITLES[name]: m["through_per_second"] for name, m in middle.items()})},
    )
