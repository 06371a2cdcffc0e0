"""Asking for a start while coordinators come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from fabric import Service, ServiceError, rpc
from fabric.cli.ask import ask_to_start
from fabric.coordination.agent import AgentPolicy
from fabric.coordination.coordinator import Coordinator
from fabric.coordination.fleet import parse_fleet
from fabric.coordination.journal_memory import MemoryJournal
from fabric.coordination.leadership import LeadershipPolicy
from fabric.coordination.status import FleetStatus, RunState, UpOptions
from fabric.errors import RemoteError, StartupError
from fabric.startup.events import RunRequested
from fabric.testing import Bench

FLEET = """
name: shop
services:
  store: {critical: true, timeout: 30s, run: "x:Store"}
"""
ASKED = UpOptions(run="shop-1")


class Scripted(Service):
    """A coordinator whose answers the test makes."""

    name: ClassVar[str] = "coordinator"

    def __init__(self, answer: Callable[[Scripted], Awaitable[FleetStatus]]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    @rpc(idempotent=True, timeout=10.0)
    async def up(self, options: UpOptions) -> FleetStatus:
        self.asked.append(options.run)
        return await self.answer(self)


def began(run: str) -> FleetStatus:
    return FleetStatus(fleet="shop", run=run, epoch=1, state=RunState.STARTING)


async def test_the_coordinator_dies_after_the_start_is_in_its_journal() -> None:
    """S2: it is lost before it answers; its successor, asked the same, goes on with the run that it finds and begins no other."""
    fleet, log = parse_fleet(FLEET, "shop.yaml"), list[bytes]()

    class Dying(Coordinator):
        @rpc(idempotent=True, timeout=10.0)
        async def up(self, options: UpOptions) -> FleetStatus:
            answer = await super().up(options)
            bench.kill(self.hub.instance)
            return answer

    async with Bench(policy=AgentPolicy(first_check=0.01, check_interval=0.2)) as bench:
        await bench.start(Dying(fleet, journal=MemoryJournal(log)))
        hub = await bench.hub("fabric-supervisor")
        asking = asyncio.create_task(ask_to_start(hub, ASKED, limit=20.0))
        while not any(b"shop-1" in body for body in log):
            await asyncio.sleep(0.01)
        policy = LeadershipPolicy(watch_interval=0.05, greeting=0.2, pause=0.05)
        successor = Coordinator(fleet, journal=MemoryJournal(log), policy=policy)
        await bench.start(successor, managed=False, instance="coordinator-2")
        assert (await asking).run == "shop-1"
        history = await MemoryJournal(log).claim("test", 1)
        assert {event.run for event, _ in history.entries if isinstance(event, RunRequested)} == {"shop-1"}


async def test_each_way_not_to_answer_is_followed_by_another_question() -> None:
    """Nobody there, one that stands by, and one that is cancelled while it is asked: whoever comes then is asked."""

    async def stands_by(service: Scripted) -> FleetStatus:
        raise ServiceError("another one leads", code="coordinator.not-leader", retryable=True)

    async def is_lost(service: Scripted) -> FleetStatus:
        bench.kill(service.hub.instance)
        await asyncio.Event().wait()
        raise AssertionError

    async def answers(service: Scripted) -> FleetStatus:
        return began(service.asked[-1])

    async with Bench() as bench:
        hub = await bench.hub("fabric-supervisor")
        asking = asyncio.create_task(ask_to_start(hub, ASKED, limit=20.0))
        for answer in (stands_by, is_lost):
            scripted = Scripted(answer)
            agent = await bench.start(scripted)
            async with asyncio.timeout(10):
                while not scripted.asked:
                    await asyncio.sleep(0.01)
            with contextlib.suppress(KeyError):
                await bench.stop(agent.instance)
        assert not asking.done()
        await bench.start(Scripted(answers))
        assert (await asyncio.wait_for(asking, 10)).run == "shop-1"


async def test_a_refusal_is_final_and_patience_ends() -> None:
    """A start that can't be is not asked for again; without any coordinator it ends in time and says what it met."""

    async def refuses(service: Scripted) -> FleetStatus:
        raise ServiceError("no such stage", code="coordinator.refused")

    async with Bench() as bench:
        hub = await bench.hub("fabric-supervisor")
        with pytest.raises(StartupError, match=r"within 0.2 s.*nobody offers it"):
            await ask_to_start(hub, ASKED, limit=0.2)
        scripted = Scripted(refuses)
        await bench.start(scripted)
        with pytest.raises(RemoteError, match="no such stage"):
            await ask_to_start(hub, ASKED, limit=5.0)
        assert scripted.asked == ["shop-1"]


async def test_asking_again_while_the_first_is_under_way_begins_one_run() -> None:
    """Two that ask the same at once get the same run, and so does one that asks when it is settled."""
    log = list[bytes]()
    async with Bench() as bench:
        await bench.start(Coordinator(parse_fleet(FLEET, "shop.yaml"), journal=MemoryJournal(log)))
        hub = await bench.hub("fabric-supervisor")
        both = await asyncio.gather(*(ask_to_start(hub, ASKED, limit=5.0) for _ in range(2)))
        assert {status.run for status in both} == {"shop-1"}
        assert (await ask_to_start(hub, ASKED, limit=5.0)).run == "shop-1"
        history = await MemoryJournal(log).claim("test", 1)
        assert len([event for event, _ in history.entries if isinstance(event, RunRequested)]) == 1
