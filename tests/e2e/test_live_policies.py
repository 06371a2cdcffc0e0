"""Traffic policies from the fleet file and from the service mesh, in real processes that run meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabric.cli.exits import ExitCode
from tests.e2e.shop import Shop, read_until, until

pytestmark = pytest.mark.processes

TELLER = """
from fabric import Service, rpc


class Teller(Service):
    name = "teller"

    @rpc(idempotent=True)
    async def balancing(self) -> dict[str, str]:
        policies = self.hub.traffic.policies
        return {name: policies.of(name).balancing for name in ("email", "other")}
"""

FLEET = """\
name: live
services:
  service-mesh: {run: "services.todo.mesh:ServiceMesh"}
  teller: {run: "teller:Teller"}
policies: {from: service-mesh, default: {balancing: weighted}}
"""


def test_a_policy_reaches_processes_that_run(tmp_path: Path) -> None:
    """The fleet file's policies hold from the start; what is set at the mesh goes over them in a process that was not told and
    not restarted; what is wrong is refused, and the old ones stay."""
    fleet = Shop(tmp_path)
    (tmp_path / "teller.py").write_text(TELLER)
    (tmp_path / "fleet.yaml").write_text(FLEET)

    def told() -> Any:
        return json.loads(fleet.run("call", "teller", "balancing").stdout)

    with fleet.up() as up:
        read_until(up, "Ctrl-C stops it")
        assert told() == {"email": "weighted", "other": "weighted"}
        change = fleet.run("call", "service-mesh", "set_policy", '{"service": "email", "balancing": "p2c"}')
        assert change.returncode == ExitCode.OK, change.stderr
        until(lambda: told() == {"email": "p2c", "other": "weighted"})
        wrong = fleet.run("call", "service-mesh", "set_policy", '{"service": "email", "balancing": "best"}')
        assert wrong.returncode != ExitCode.OK
        assert "round-robin" in wrong.stderr
        assert told() == {"email": "p2c", "other": "weighted"}
        assert fleet.run("down").returncode == ExitCode.OK
