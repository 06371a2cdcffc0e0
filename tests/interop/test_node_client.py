"""A second language on the bus, with nothing but docs/protocol.md: JSON messages, amqplib, no code of ours."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fabric import Service, ServiceError, on_broadcast, on_event, rpc
from fabric.config import Settings
from fabric.contract import contract_of
from fabric.contracts.asyncapi import asyncapi
from fabric.contracts.description import describe, digest_of
from fabric.testing import Bench
from fabric.transports.base import Transport
from fabric.transports.topology import Topology
from tests.brokers.node import BrokerNode
from tests.contract.backend_amqp import AmqpBackend


class Created(BaseModel):
    id: int
    title: str


class InteropDesk(Service):
    name, version = "interop-desk", "2.1.0"
    capabilities = ("adding",)

    def __init__(self) -> None:
        self.events: asyncio.Queue[Created] = asyncio.Queue()
        self.closed: asyncio.Queue[int] = asyncio.Queue()
        self.shouts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    @rpc(idempotent=True)
    async def add(self, a: int, b: int) -> int:
        return a + b

    @rpc()
    async def refuse(self, why: str) -> None:
        raise ServiceError(f"refused: {why}", code="desk.closed", details={"until": "monday"})

    @rpc()
    async def count(self, upto: int, fail_at: int = -1) -> AsyncIterator[int]:
        self.made = 0
        try:
            for number in range(upto):
                if number == fail_at:
                    raise ServiceError("no more", code="desk.end")
                self.made += 1
                yield number
        finally:
            self.closed.put_nowait(self.made)

    @on_event("interop.created")
    async def created(self, event: Created) -> None:
        self.events.put_nowait(event)

    @on_broadcast("interop.shout")
    async def shout(self, event: dict[str, Any]) -> None:
        self.shouts.put_nowait(event)


async def run_node(folder: Path, *arguments: str, text: str = "") -> Any:
    """The JSON that a script of the client prints."""
    node = shutil.which("node")
    assert node is not None
    process = await asyncio.create_subprocess_exec(
        node,
        *arguments,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_another_language_finds_calls_and_publishes(node_client: Path, broker: BrokerNode, amqp: AmqpBackend) -> None:
    """A Node client finds a service, calls it, gets typed errors, reads its contract; a Python service handles its event."""

    async def link(_: Settings) -> Transport:
        return await amqp.transport(connect=False)

    namespace = amqp.topology.namespace
    settings = Settings(namespace=namespace, heartbeat_interval=0.5, connect_timeout=15.0)
    desk = InteropDesk()
    async with Bench(settings=settings, transport=link) as bench:
        await bench.start(desk)
        facts = await run_node(node_client, "run.js", broker.url, namespace)
        async with asyncio.timeout(20):
            assert await desk.events.get() == Created(id=7, title="from node")
            assert await desk.shouts.get() == {"id": 1}
            assert [await desk.closed.get() for _ in range(2)] == [500, 6]
            assert await desk.closed.get() <= 3 + 4 + 1, "no more was made than there was room for, and then it was told to stop"
    contract = contract_of(InteropDesk)
    assert facts["found"] == {
        "service": "interop-desk",
        "state": "running",
        "idempotent": True,
        "contract": digest_of(contract),
    }
    assert facts["sum"] == 5
    assert facts["many"] == [n + 1 for n in range(50)]
    assert facts["refused"] == {
        "message": "refused: closed",
        "kind": "failed",
        "type": "ServiceError",
        "code": "desk.closed",
        "details": {"until": "monday"},
    }
    assert facts["invalid"]["kind"] == "invalid"
    assert facts["noMethod"]["kind"] == "no-method"
    assert facts["late"]["message"] in ("", "no answer in time")
    assert "nobody there" in facts["gone"]["message"]
    assert facts["stream"] == {"found": list(range(500))}
    assert facts["failing"] == {"found": list(range(6)), "message": "no more", "kind": "failed", "code": "desk.end"}
    assert facts["left"] == {"found": [0, 1, 2]}
    assert facts["once"]["kind"] == "invalid"
    assert (facts["whole"]["found"], facts["whole"]["kind"]) == ([], "invalid")
    assert facts["contract"] == json.loads(json.dumps(describe(contract)))
    assert facts["contentTypes"] == ["application/json"]


@pytest.mark.parametrize("target", ["desk", "fleet"])
async def test_the_document_is_asyncapi(node_client: Path, target: str) -> None:
    """The document of a service, and of the whole reference fleet, follows the JSON schema of AsyncAPI 3.0.0."""
    if target == "desk":
        described = [describe(contract_of(InteropDesk))]
    else:
        from fabric.coordination.contracts import contracts_of
        from fabric.coordination.fleet import load_fleet

        known = contracts_of(load_fleet(Path(__file__).parents[2] / "services/todo/fleet.yaml"))
        described = [describe(contract) for contract in known.values() if contract is not None]
        assert len(described) > 10
    document = asyncapi(described, Topology("todo"))
    assert await run_node(node_client, "validate.js", text=json.dumps(document)) == []
