"""A round of calls between two processes, with the processor time of each and of the broker per 1,000 calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks import compiled
from benchmarks.broker import Broker
from benchmarks.measure import note
from benchmarks.peers import BROKERLESS, ON_NATS, PEERS
from benchmarks.side import Side, side
from tests.brokers.node import free_port

MODULE = "benchmarks.contestant"
NEEDS = {"faststream": "faststream", "grpc_asyncio": "grpc", "nats": "nats"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A client and its servers, both warm."""

    client: Side
    servers: Sequence[Side]
    broker: Broker

    def do(self, **order: Any) -> dict[str, float]:
        """Load as ``benchmarks.contestant`` is told, with what it cost."""
        servers, broker = sum(server.cpu() for server in self.servers), self.broker.cpu()
        self.client.tell(json.dumps(order))
        measured: dict[str, float] = self.client.answer(timeout=order["seconds"] * 5 + 60)
        thousands = measured["calls"] / 1000
        measured["client_cpu_s_per_1000"] = measured.pop("client_cpu_s") / thousands
        measured["server_cpu_s_per_1000"] = (sum(server.cpu() for server in self.servers) - servers) / thousands
        measured["broker_cpu_s_per_1000"] = (self.broker.cpu() - broker) / thousands
        measured["cpu_s_per_1000"] = sum(measured[f"{part}_cpu_s_per_1000"] for part in ("client", "server", "broker"))
        measured["server_memory_mb"] = max(server.resident_mb() for server in self.servers)
        return measured


@contextmanager
def contest(name: str, broker: Broker) -> Iterator[Contest]:
    """One client and one server of the peer ``name``."""
    url = f"127.0.0.1:{free_port()}" if name in BROKERLESS else broker.url
    environment = compiled.environment_of(name)
    with (
        side(MODULE, name, "serve", url, environment=environment) as server,
        side(MODULE, name, "load", url, environment=environment) as client,
    ):
        yield Contest(client=client, servers=(server,), broker=broker)


def contestants(names: Sequence[str], rabbitmq: Broker, nats: Broker | None) -> Mapping[str, Broker]:
    """The broker of each that can take part; who can't is named."""
    found = {}
    for name in names:
        if name in NEEDS and find_spec(NEEDS[name]) is None:
            note(f"left out: {PEERS[name]} is not installed (make bench installs it)")
        elif name == compiled.NAME and (reason := compiled.lack()):
            note(f"left out: {PEERS[name]}, for {reason}")
        elif name not in ON_NATS:
            found[name] = rabbitmq
        elif nats is None:
            note(f"left out: {PEERS[name]}, for there is no nats-server")
        else:
            found[name] = nats
    return found
