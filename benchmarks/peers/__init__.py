"""Everybody who is measured, Fabric among them, behind one small interface.

Each module has ``serve(url, started, services)``, which echoes until it is cancelled, and ``connect(url)``, an async context
whose value takes a text and the service to ask, and returns the text. Only those in ``MANY`` tell services apart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Protocol, cast

SERVICE = "bench-echo"
Echo = Callable[[str, str], Awaitable[str]]


class Peer(Protocol):
    async def serve(self, url: str, started: Callable[[], None], services: Sequence[str]) -> None: ...

    def connect(self, url: str) -> AbstractAsyncContextManager[Echo]: ...


PEERS: dict[str, str] = {
    "fabric": "Fabric, all features on",
    "fabric_compiled": "Fabric, compiled",
    "aio_pika_rpc": "aio-pika's RPC pattern",
    "faststream": "FastStream request",
    "aiormq_direct": "bare aiormq, direct reply-to",
    "grpc_asyncio": "gRPC asyncio",
    "nats": "nats-py request",
    "tcp": "plain TCP echo (the limit)",
}
BROKERLESS = {"grpc_asyncio", "tcp"}
ON_NATS = {"nats"}
MANY = {"fabric", "fabric_compiled", "aio_pika_rpc"}


def peer(name: str) -> Peer:
    return cast(Peer, import_module(f"benchmarks.peers.{name}"))
