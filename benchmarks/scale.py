"""How Fabric grows: with calls in flight, with the size of a payload, with servers and clients, and with the number of hubs."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.broker import Broker, rabbitmq
from benchmarks.contest import MODULE, contest
from benchmarks.measure import Result, Table, machine, median, note
from benchmarks.plot import lines
from benchmarks.side import Side, side

IN_FLIGHT: Sequence[int] = (1, 10, 100, 1000)
BYTES: Sequence[int] = (100, 1_000, 10_000, 100_000, 1_000_000)
SERVERS: Sequence[int] = (1, 2, 4, 8, 16)
CLIENTS: Sequence[int] = (1, 2, 4)
HUBS: Sequence[int] = (10, 50, 100, 200, 500)
HUBS_IN_A_PROCESS = 50
SETTLING = 3.0

Measured = dict[str, float]
Rows = dict[int, list[Measured]]


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of the smallest sizes, to see that it works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load")
    parser.add_argument("--hubs", default=",".join(map(str, HUBS)))
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.hubs = 1, 0.3, "10"
    few = slice(0, 2) if options.quick else slice(None)
    facts = machine()
    with rabbitmq() as broker:
        rounds = {
            "in flight": _in_rounds(options.rounds, lambda: _in_flight(broker, IN_FLIGHT[few], options.seconds)),
            "bytes": _in_rounds(options.rounds, lambda: _bytes(broker, BYTES[few], options.seconds)),
            "servers": _in_rounds(options.rounds, lambda: ((n, _many(broker, n, 1, options.seconds)) for n in SERVERS[few])),
            "clients": _in_rounds(options.rounds, lambda: ((n, _many(broker, 4, n, options.seconds)) for n in CLIENTS[few])),
            "hubs": {int(count): [_hubs(broker, int(count))] for count in options.hubs.split(",")},
        }
    return _result(rounds, options, facts).finish()


def _in_rounds(rounds: int, measure: Any) -> Rows:
    found: Rows = {}
    for _ in range(rounds):
        for size, measured in measure():
            found.setdefault(size, []).append(measured)
    return found


def _in_flight(broker: Broker, sizes: Iterable[int], seconds: float) -> Iterable[tuple[int, Measured]]:
    with contest("fabric", broker) as pair:
        for size in sizes:
            yield size, pair.do(do="closed", in_flight=size, seconds=seconds)
            note(f"scale: {size} in flight")


def _bytes(broker: Broker, sizes: Iterable[int], seconds: float) -> Iterable[tuple[int, Measured]]:
    with contest("fabric", broker) as pair:
        for size in sizes:
            yield size, pair.do(do="closed", in_flight=10, seconds=seconds, bytes=size)
            note(f"scale: {size} bytes")


def _many(broker: Broker, servers: int, clients: int, seconds: float) -> Measured:
    """All clients at once, each with 100 in flight."""
    with ExitStack() as stack:
        serving = [stack.enter_context(side(MODULE, "fabric", "serve", broker.url)) for _ in range(servers)]
        loading = [stack.enter_context(side(MODULE, "fabric", "load", broker.url)) for _ in range(clients)]
        before = _cpu(serving), broker.cpu()
        for client in loading:
            client.tell(json.dumps({"do": "closed", "in_flight": 100, "seconds": seconds}))
        answers = [client.answer() for client in loading]
        thousands = sum(answer["calls"] for answer in answers) / 1000
        note(f"scale: {servers} servers, {clients} clients")
        return {
            "calls_per_second": sum(answer["calls_per_second"] for answer in answers),
            "p99_ms": max(answer["p99_ms"] for answer in answers),
            "client_cpu_s_per_1000": sum(answer["client_cpu_s"] for answer in answers) / thousands,
            "server_cpu_s_per_1000": (_cpu(serving) - before[0]) / thousands,
            "broker_cpu_s_per_1000": (broker.cpu() - before[1]) / thousands,
        }


def _cpu(sides: Iterable[Side]) -> float:
    return sum(each.cpu() for each in sides)


def _hubs(broker: Broker, count: int, seconds: float = 10.0) -> Measured:
    """Traffic of hubs that call nobody, after they have found each other."""
    begin = time.monotonic()
    with ExitStack() as stack:
        processes = []
        for first in range(0, count, HUBS_IN_A_PROCESS):
            here = min(HUBS_IN_A_PROCESS, count - first)
            arguments = (broker.url, f"--first={first}", f"--count={here}", f"--of={count}")
            processes.append(stack.enter_context(side("benchmarks.hubs", *arguments)))
        started = time.monotonic() - begin
        _window(processes, SETTLING)
        before = _cpu(processes), broker.cpu()
        answers = _window(processes, seconds)
        spent = _cpu(processes) - before[0], broker.cpu() - before[1]
        note(f"scale: {count} hubs")
        return {
            "sent_per_second": sum(answer["sent"] for answer in answers) / seconds,
            "received_per_second": sum(answer["received"] for answer in answers) / seconds,
            "hub_cpu_percent": 100 * spent[0] / seconds / count,
            "broker_cpu_percent": 100 * spent[1] / seconds,
            "resident_mb": sum(each.resident_mb() for each in processes),
            "started_s": started,
        }


def _window(processes: Iterable[Side], seconds: float) -> list[dict[str, Any]]:
    for each in processes:
        each.tell(json.dumps({"seconds": seconds}))
    return [each.answer(timeout=seconds + 60) for each in processes]


def _middle(rows: Rows) -> dict[int, Measured]:
    return {size: {key: median([r[key] for r in results]) for key in results[0]} for size, results in rows.items()}


def _calls(title: str, first: str, rows: Rows) -> Table:
    return Table(
        title=title,
        head=(first, "calls/s", "p99 ms", "client", "server", "broker"),
        rows=[
            [
                f"{size:,}",
                f"{m['calls_per_second']:,.0f}",
                f"{m['p99_ms']:.2f}",
                *(f"{m[f'{part}_cpu_s_per_1000']:.3f}" for part in ("client", "server", "broker")),
            ]
            for size, m in _middle(rows).items()
        ],
    )


def _result(rounds: dict[str, Rows], options: argparse.Namespace, facts: dict[str, object]) -> Result:
    hubs = _middle(rounds["hubs"])
    table = Table(
        title="Hubs that are idle",
        head=("hubs", "sent/s", "received/s", "received/s a hub", "hub CPU %", "broker CPU %", "MB a hub", "started in s"),
        rows=[
            [
                f"{count}",
                f"{m['sent_per_second']:.0f}",
                f"{m['received_per_second']:.0f}",
                f"{m['received_per_second'] / count:.1f}",
                f"{m['hub_cpu_percent']:.2f}",
                f"{m['broker_cpu_percent']:.0f}",
                f"{m['resident_mb'] / count:.1f}",
                f"{m['started_s']:.0f}",
            ]
            for count, m in hubs.items()
        ],
    )
    plots = {
        f"scale-{name.replace(' ', '-')}": lines(
            f"calls per second against {name}",
            name,
            list(rows),
            {"calls/s": [m["calls_per_second"] for m in _middle(rows).values()]},
        )
        for name, rows in rounds.items()
        if name != "hubs"
    }
    series = {part: [m[f"{part}_per_second"] for m in hubs.values()] for part in ("sent", "received")}
    plots["scale-hubs"] = lines("messages per second of idle hubs", "hubs", list(hubs), series)
    return Result(
        name="scale",
        machine=facts,
        options=options,
        notes=(
            f"Fabric alone, medians of {options.rounds} rounds; client, server, broker: processor seconds per 1,000 calls, of all"
            " clients and of all servers. Every server and every client is a process of its own on this machine.",
            "Hubs: processes with 50 each, services of 5 instances, each instance calls 3 other services; measured once over 10 s"
            " without calls, so what is counted is announcements, heartbeats and votes.",
        ),
        tables=(
            _calls("Calls in flight, one server, 200 bytes", "in flight", rounds["in flight"]),
            _calls("Size of payload, both ways, 10 in flight", "bytes", rounds["bytes"]),
            _calls("Servers, one client with 100 in flight", "servers", rounds["servers"]),
            _calls("Clients with 100 in flight each, four servers", "clients", rounds["clients"]),
            table,
        ),
        values={},
        rounds=rounds,
        plots=plots,
    )
