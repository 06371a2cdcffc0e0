"""gRPC over asyncio with the bytes as they are, so that protobuf's cost is not counted against it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc

from benchmarks.peers import Echo


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.unary_unary_rpc_method_handler(_echo) if call.method == "/bench.Echo/Echo" else None


async def _echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return request


async def serve(url: str, started: Callable[[], None], services: Sequence[str]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(),))
    server.add_insecure_port(url)
    await server.start()
    started()
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop(0.5)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Echo]:
    async with grpc.aio.insecure_channel(url) as channel:
        method = channel.unary_unary("/bench.Echo/Echo")

        async def echo(text: str, service: str) -> str:
            answer: bytes = await method(text.encode(), timeout=10.0)
            return answer.decode()

        yield echo
