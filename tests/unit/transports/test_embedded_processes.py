"""The embedded broker and its clients as real processes that are stopped and killed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from fabric.errors import ConnectionLost, NoRoute
from fabric.transports.backoff import Backoff
from fabric.transports.base import LinkState
from fabric.transports.embedded import EmbeddedTransport
from fabric.transports.embedded_server import EmbeddedServer
from fabric.transports.topology import Topology
from tests.contract.observed import Events, Inbox, events, outcome, until
from tests.unit.transports.socket_broker import BROKER, CLIENT, running, said

pytestmark = pytest.mark.processes
TOPOLOGY = Topology("unit")
BACKOFF = Backoff(first=0.02, most=0.2)


async def test_killed_client(socket_path: Path) -> None:
    """M7 (moleculer#399): when a client is killed with -9 its exclusive queue vanishes at once, and what it had not acknowledged
    goes to another consumer, counted."""
    async with EmbeddedServer(socket_path), running(CLIENT, socket_path) as victim:
        link, inbox = EmbeddedTransport(socket_path, TOPOLOGY), Inbox(ack=True)
        await link.connect(timeout=10)
        await link.send(TOPOLOGY.rpc, "victim", b"call", timeout=10, mandatory=True)
        for number in range(3):
            await link.send(TOPOLOGY.events, "todo.created", b"%d" % number, timeout=10, mandatory=True)
            assert await said(victim) == f"got {number}"
        await link.consume(events(TOPOLOGY, "todo.*"), inbox, timeout=10)
        victim.kill()
        again = [await inbox.next() for _ in range(3)]
        assert [(delivery.body, delivery.attempt) for delivery in again] == [(b"0", 2), (b"1", 2), (b"2", 2)]
        with pytest.raises(NoRoute):
            await link.send(TOPOLOGY.rpc, "victim", b"call", timeout=10, mandatory=True)
        await link.aclose()


async def test_killed_broker(socket_path: Path) -> None:
    """M1: when the broker is killed with -9 its clients notice at once, and are back by themselves when another one takes the
    socket over. What the first one held is gone."""
    link, inbox = EmbeddedTransport(socket_path, TOPOLOGY, backoff=BACKOFF), Inbox()
    async with running(BROKER, socket_path) as broker:
        await link.connect(timeout=10)
        await link.consume(TOPOLOGY.requests("one"), inbox, timeout=10)
        seen = Events(link)
        broker.kill()
        await seen.until_state(LinkState.RECONNECTING)
        assert socket_path.exists()
    async with running(BROKER, socket_path):
        await seen.until_epoch(2)
        await link.send(TOPOLOGY.rpc, "one", b"call", timeout=10, mandatory=True)
        assert await inbox.bodies(1) == [b"call"]
    await link.aclose()


async def test_stopped_broker(socket_path: Path) -> None:
    """M2 (celery#2312): a broker process that stands still is noticed by itself, no waiting goes over its limit meanwhile, and
    when it runs again the link is back."""
    link = EmbeddedTransport(socket_path, TOPOLOGY, patience=0.4, backoff=BACKOFF)
    async with running(BROKER, socket_path) as broker:
        await link.connect(timeout=10)
        seen = Events(link)
        broker.send_signal(signal.SIGSTOP)
        try:
            await seen.until_state(LinkState.RECONNECTING)
            async with asyncio.timeout(10):
                late = EmbeddedTransport(socket_path, TOPOLOGY)
                assert isinstance(await outcome(late.connect(timeout=0.2)), ConnectionLost)
                await late.aclose()
        finally:
            broker.send_signal(signal.SIGCONT)
        await seen.until_epoch(2)
        await link.ping(timeout=10)
    await link.aclose()


async def test_terminated_broker(socket_path: Path) -> None:
    """A broker that is interrupted ends cleanly: its clients know, and neither socket nor lock is left."""
    link = EmbeddedTransport(socket_path, TOPOLOGY)
    async with running(BROKER, socket_path) as broker:
        await link.connect(timeout=10)
        seen = Events(link)
        broker.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await broker.wait()
        await seen.until_state(LinkState.RECONNECTING)
        assert list(socket_path.parent.iterdir()) == []
    await link.aclose()


async def test_stopped_client(socket_path: Path) -> None:
    """M30 (nats.py#667): a client that stands still takes a bounded share of the broker's memory, and harms no other."""
    async with EmbeddedServer(socket_path) as server, running(CLIENT, socket_path) as victim:
        link, inbox = EmbeddedTransport(socket_path, TOPOLOGY), Inbox()
        await link.connect(timeout=10)
        await link.consume(TOPOLOGY.requests("one"), inbox, timeout=10)
        victim.send_signal(signal.SIGSTOP)
        errors = [
            error
            for _ in range(100)
            if (error := await outcome(link.send(TOPOLOGY.rpc, "victim", bytes(1024 * 1024), timeout=10))) is not None
        ]
        assert errors
        assert {type(error).__name__ for error in errors} == {"NotSent"}
        assert server.network.broker.alarm.held < 80 * 1024 * 1024
        await link.send(TOPOLOGY.rpc, "one", b"call", timeout=10, mandatory=True)
        assert await inbox.bodies(1) == [b"call"]
        victim.kill()

        async def released() -> bool:
            return server.network.broker.alarm.held == 0

        await until(released)
        await link.aclose()
