"""Policies that a service hands out while everybody runs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from fabric import Service, ServiceError, rpc
from fabric.config import Settings
from fabric.hub import Hub
from fabric.testing import Bench
from tests.puppet import eventually, turns

FOLLOW = Settings(
    heartbeat_interval=0.2, policies_from="mesh", policies={"default": {"timeout": 9}, "services": {"b": {"timeout": 7}}}
)


class Mesh(Service):
    name = "mesh"

    def __init__(self) -> None:
        self.plain: Any = {"revision": 0}
        self.asked = 0
        self.fail = 0

    def hand_out(self, plain: Any, revision: int) -> None:
        self.plain = plain
        self.metadata["policies"] = revision
        self.hub.announce()

    @rpc(idempotent=True)
    async def traffic_policies(self) -> Any:
        self.asked += 1
        if self.fail:
            self.fail -= 1
            raise ServiceError("not yet")
        return self.plain


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="fabric")


def balancing(hub: Hub, service: str = "a") -> str:
    return hub.traffic.policies.of(service).balancing


async def test_a_change_reaches_those_that_run_and_those_that_come_later() -> None:
    """Handed-out policies go over a hub's own, service by service, without a restart; who joins afterwards has them too."""
    async with Bench(settings=FOLLOW) as bench:
        mesh = Mesh()
        hub = await bench.hub()
        await bench.start(mesh)
        mesh.hand_out({"revision": 1, "services": {"a": {"balancing": "p2c"}}}, 1)
        await eventually(lambda: balancing(hub) == "p2c")
        policies = hub.traffic.policies
        assert (policies.of("a").timeout, policies.of("b").timeout, policies.of("c").balancing) == (9.0, 7.0, "round-robin")
        late = await bench.hub("late")
        await eventually(lambda: balancing(late) == "p2c")
        mesh.hand_out({"revision": 2, "services": {"c": {"balancing": "random"}}}, 2)
        await eventually(lambda: balancing(hub, "c") == "random" and balancing(late, "c") == "random")
        assert balancing(hub) == "round-robin", "what is no longer said is as it was"


@pytest.mark.parametrize("bad", [{"services": {"a": {"balancing": "best"}}}, {"default": 5}, "policies", None, {"polices": {}}])
async def test_a_bad_set_is_refused_and_the_old_one_stays(bad: Any) -> None:
    """Anything wrong in a set, and nothing of it is taken; the next good one is."""
    async with Bench(settings=FOLLOW) as bench:
        mesh = Mesh()
        await bench.start(mesh)
        hub = await bench.hub()
        mesh.hand_out({"revision": 1, "default": {"balancing": "p2c"}}, 1)
        await eventually(lambda: balancing(hub) == "p2c")
        mesh.hand_out({**bad, "revision": 2} if isinstance(bad, dict) else bad, 2)
        await eventually(lambda: hub._follower.refused > 0)
        assert balancing(hub) == "p2c"
        mesh.hand_out({"revision": 3, "default": {"balancing": "random"}}, 3)
        await eventually(lambda: balancing(hub) == "random")


async def test_a_service_that_cannot_answer_yet_is_asked_again() -> None:
    """The announcement came and the answer did not: it is asked for again, with pauses."""
    async with Bench(settings=FOLLOW) as bench:
        mesh = Mesh()
        await bench.start(mesh)
        hub = await bench.hub()
        mesh.fail = 1
        mesh.hand_out({"revision": 1, "default": {"balancing": "p2c"}}, 1)
        await eventually(lambda: balancing(hub) == "p2c")
        assert mesh.asked == 2


async def test_heartbeats_ask_for_nothing() -> None:
    """A revision is taken once: announcements that repeat it cause no call."""
    async with Bench(settings=FOLLOW) as bench:
        mesh = Mesh()
        await bench.start(mesh)
        hub = await bench.hub()
        mesh.hand_out({"revision": 1, "default": {"balancing": "p2c"}}, 1)
        await eventually(lambda: balancing(hub) == "p2c")
        for _ in range(10):
            mesh.hub.announce()
            await turns(3)
        assert mesh.asked == 1


async def test_the_one_that_hands_out_follows_nobody() -> None:
    """The same environment for every process: the mesh itself does not follow itself, and a fleet without one runs."""
    async with Bench(settings=FOLLOW) as bench:
        mesh = Mesh()
        await bench.start(mesh)
        mesh.hand_out({"revision": 1, "default": {"balancing": "p2c"}}, 1)
        await turns()
        assert mesh.asked == 0
    before = asyncio.all_tasks()
    async with Bench(settings=FOLLOW) as bench:
        await bench.hub()
    await turns()
    assert asyncio.all_tasks() == before
