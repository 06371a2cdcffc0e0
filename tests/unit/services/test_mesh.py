"""Traffic policies: checked, numbered, kept, told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fabric import Hub, Service, on_broadcast
from fabric.config import Settings
from fabric.errors import ConfigurationError, RemoteError, ValidationFailed
from fabric.testing import Bench
from services.todo.fleet_contracts import POLICY_CHANGED, PolicyChange, RetrySettings, TrafficPolicy
from services.todo.mesh import MeshSettings, ServiceMesh
from tests.puppet import eventually


class Listener(Service):
    """Takes policies as a hub would."""

    name = "listener"

    def __init__(self) -> None:
        self.heard: asyncio.Queue[TrafficPolicy] = asyncio.Queue()

    @on_broadcast(POLICY_CHANGED)
    async def hear(self, policy: TrafficPolicy) -> None:
        self.heard.put_nowait(policy)


@pytest.fixture
async def mesh(bench: Bench, hub: Hub, tmp_path: Path) -> ServiceMesh:
    await bench.start(ServiceMesh(MeshSettings(data_dir=tmp_path)), instance="mesh-1")
    return hub.proxy(ServiceMesh)


async def test_a_policy_that_is_set_is_told(bench: Bench, mesh: ServiceMesh) -> None:
    """It has the next number, everybody who listens gets it, and others keep the default."""
    listener = Listener()
    await bench.start(listener)
    made = await mesh.set_policy(
        PolicyChange(service="email-service", balancing="least-connections", timeout=2.0, retry=RetrySettings(attempts=2))
    )
    assert (made.revision, made.timeout, made.retry.attempts) == (1, 2.0, 2)
    async with asyncio.timeout(10):
        assert await listener.heard.get() == made
    assert await mesh.policy("email-service") == made
    assert await mesh.policy("other") == TrafficPolicy(service="other")
    assert (await mesh.policies()).policies == (made,)


async def test_policies_survive_a_restart(bench: Bench, mesh: ServiceMesh, tmp_path: Path) -> None:
    """Read from the file, with their numbers, so that the next change is newer than all before."""
    first = await mesh.set_policy(PolicyChange(service="a", timeout=1.0))
    await bench.stop("mesh-1")
    await bench.start(ServiceMesh(MeshSettings(data_dir=tmp_path)), instance="mesh-2")
    assert await mesh.policy("a") == first
    assert (await mesh.set_policy(PolicyChange(service="b"))).revision == 2


async def test_of_two_changes_on_the_same_revision_one_is_refused(mesh: ServiceMesh) -> None:
    """Who expects a revision that is no more there is told the one that is."""
    change = PolicyChange(service="a", timeout=1.0, expected_revision=0)
    await mesh.set_policy(change)
    with pytest.raises(RemoteError) as raised:
        await mesh.set_policy(change)
    assert (raised.value.code, raised.value.details["actual"]) == ("mesh.conflict", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"balancing": "alphabetical"},
        {"timeout": 0},
        {"timeout": -1},
        {"retry": {"attempts": 0}},
        {"retry": {"base": 5.0, "ceiling": 1.0}},
        {"service": "no spaces"},
        {"further": {"brakes": {}}},
        {"further": {"breaker": {"window": -1}}},
        {"further": {"timeout": 1.0}},
        {"further": {"prefer": ["rack"]}},
    ],
)
async def test_a_wrong_policy_is_refused(hub: Hub, mesh: ServiceMesh, wrong: dict[str, Any]) -> None:
    """Nothing of it is taken: unknown strategies, times and attempts that can't be."""
    with pytest.raises(ValidationFailed):
        await hub.call("service-mesh", "set_policy", {"service": "a", **wrong})
    assert (await mesh.policies()).revision == 0


async def test_hubs_that_follow_go_by_it_at_once(bench: Bench, mesh: ServiceMesh, tmp_path: Path) -> None:
    """A change reaches hubs that run and those that join later, without a restart; a wrong one changes nothing for anybody;
    and a mesh that starts again hands out what it had."""
    follow = Settings(heartbeat_interval=0.5, policies_from="service-mesh", policies={"default": {"balancing": "weighted"}})
    early = await bench.hub("early", settings=follow)
    change = PolicyChange(
        service="email-service", balancing="p2c", retry=RetrySettings(attempts=2), further={"breaker": None, "hedge_after": 0.2}
    )
    await mesh.set_policy(change)
    late = await bench.hub("late", settings=follow)
    for each in (early, late):
        await eventually(lambda each=each: each.traffic.policies.revision == 1)  # type: ignore[misc]
        policy = each.traffic.policies.of("email-service")
        assert (policy.balancing, policy.retry.attempts, policy.breaker, policy.hedge_after) == ("p2c", 2, None, 0.2)
        assert each.traffic.policies.of("other").balancing == "weighted"
    with pytest.raises(ValidationFailed):
        await late.call("service-mesh", "set_policy", {"service": "email-service", "further": {"breaker": 7}})
    await bench.stop("mesh-1")
    await bench.start(ServiceMesh(MeshSettings(data_dir=tmp_path)), instance="mesh-2")
    newest = await bench.hub("newest", settings=follow)
    await eventually(lambda: newest.traffic.policies.of("email-service") == late.traffic.policies.of("email-service"))
    await mesh.set_policy(PolicyChange(service="capability:text-analysis", timeout=2.0))
    for each in (early, late, newest):
        await eventually(lambda each=each: each.traffic.policies.of("capability:text-analysis").timeout == 2.0)  # type: ignore[misc]
        assert each.traffic.policies.of("email-service").hedge_after == 0.2
        assert each._follower.refused == 0


async def test_a_damaged_file_is_named(bench: Bench, tmp_path: Path) -> None:
    """The start fails with the name of the file, and does not write over it."""
    path = tmp_path / "policies.json"
    path.write_text('{"revision": "many"}')
    with pytest.raises(ConfigurationError, match="policies"):
        await bench.start(ServiceMesh(MeshSettings(data_dir=tmp_path)))
    assert path.read_text() == '{"revision": "many"}'


async def test_what_can_not_be_saved_is_not_in_force(mesh: ServiceMesh, tmp_path: Path) -> None:
    """When the file can't be written the change is refused and the old policies hold."""
    (tmp_path / "policies.new").mkdir()
    with pytest.raises(RemoteError) as raised:
        await mesh.set_policy(PolicyChange(service="a", timeout=1.0))
    assert raised.value.code == "mesh.not-saved"
    assert (await mesh.policies()).revision == 0
