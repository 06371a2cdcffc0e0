"""What hostile programs may put on the bus, on every kind of broker."""

from __future__ import annotations

import pickle
from typing import Any

import msgpack

from fabric import Service, on_event, rpc
from fabric.wire import batch, rows
from fabric.wire.codec import JSON, MSGPACK
from tests.integration.conftest import Fleet
from tests.puppet import keep_trying


class Run:
    """Its pickle would end the process that reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os._exit, (1,)


def _deep(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


HOSTILE = {
    "pickle": (pickle.dumps(Run()), "application/x-python-pickle"),
    "pickle as msgpack": (pickle.dumps(Run()), MSGPACK),
    "bomb": (b"\xdd\xff\xff\xff\xff", MSGPACK),
    "deep": (_deep(10_000), MSGPACK),
    "huge map": (msgpack.packb({str(n): None for n in range(200_000)}), MSGPACK),
    "ext type": (msgpack.packb(["1", msgpack.ExtType(5, b"x")]), MSGPACK),
    "deep JSON": (b"[" * 10_000, JSON),
    "no batch": (b"\x00", batch.BATCH),
    "no rows": (b"\x91\x00", rows.ROWS),
    "wrong shape": (msgpack.packb({"a": 1}), MSGPACK),
    "nothing": (b"", MSGPACK),
}


class Desk(Service):
    name = "desk"

    def __init__(self) -> None:
        self.events: list[int] = []

    @rpc()
    async def ask(self, number: int) -> int:
        return number

    @on_event("desk.*")
    async def take(self, number: int) -> None:
        self.events.append(number)


async def test_hostile_bodies(fleet: Fleet) -> None:
    """M31 (dramatiq#848): pickles, bombs, deep nesting, huge maps, ext types and wrong schemas are refused and counted as
    requests, and dead-lettered with a reason as events; the process lives and does the work between them."""
    desk = Desk()
    hub = await fleet.start(desk)
    client = await fleet.bench.hub()
    names, send = client.topology, client.transport.send
    for n, (body, content_type) in enumerate(HOSTILE.values()):
        await send(names.rpc, hub.instance, body, content_type=content_type, timeout=10, mandatory=True)
        await send(names.events, "desk.made", body, content_type=content_type, timeout=10, mandatory=True, persistent=True)
        assert await client.call("desk", "ask", {"number": n}) == n
        await client.publish("desk.made", n)
    await client.publish("desk.made", {"number": "seven"})

    async def done() -> bool:
        return len(desk.events) == len(HOSTILE) and len(await client.dead_letters("desk").list()) == len(HOSTILE) + 1

    await keep_trying(done, within=30)
    assert sorted(desk.events) == list(range(len(HOSTILE)))
    letters = await client.dead_letters("desk").list()
    assert all(letter.reason for letter in letters)
    assert {bytes(letter.body) for letter in letters} >= {body for body, _ in HOSTILE.values()}
    assert hub._served is not None
    assert hub._served._dispatcher.invalid == len(HOSTILE)
