"""What becomes of a fleet of real processes when one of them fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabric.cli.exits import ExitCode
from tests.e2e.shop import Shop, read_until, until

pytestmark = pytest.mark.processes

SERVICES = '''
import pathlib
from fabric import Health, Service


class Store(Service):
    """Healthy as long as the disk is there."""

    name = "store"

    async def check_health(self) -> Health:
        return Health.ok() if pathlib.Path("disk").exists() else Health.bad("the disk is not mounted")


class Flags(Store):
    name = "flags"


class Web(Service):
    name = "web"
'''
FLEET = """\
name: shop
services:
  NEEDED: {run: "shop:CLASS", critical: CRITICAL, timeout: 2s}
  web: {run: "shop:Web", critical: true, dependencies: [NEEDED]}
stages:
  - {name: all, services: [NEEDED, web], gate: {required: [web]}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    (tmp_path / "shop.py").write_text(SERVICES)
    return shop


def write(shop: Shop, needed: str, *, critical: bool) -> None:
    text = FLEET.replace("NEEDED", needed).replace("CLASS", needed.capitalize()).replace("CRITICAL", str(critical).lower())
    (shop.root / "fleet.yaml").write_text(text)


def states(status: dict[str, Any]) -> dict[str, str]:
    return {service["name"]: service["state"] for service in status["services"]}


def test_what_recovers_late_starts_its_dependents(shop: Shop) -> None:
    """S1 (systemd#18856, process-compose#189): it used up all its time and the run failed; when it gets healthy after that, what
    waits for it starts, and nobody lends a hand."""
    write(shop, "store", critical=True)
    with shop.up("--keep") as up:
        read_until(up, "shop did not come up")
        status = json.loads(shop.run("status", "--json").stdout)
        assert states(status) == {"store": "failed", "web": "blocked"}
        (shop.root / "disk").touch()
        until(lambda: states(json.loads(shop.run("status", "--json").stdout)) == {"store": "ready", "web": "ready"})
        assert shop.run("down").returncode == ExitCode.OK
        assert up.wait(60) == ExitCode.FAILED


def test_what_never_gets_healthy_ends_the_start(shop: Shop) -> None:
    """S3 (podman-compose#1534): the cause is named, with the words of its health check and who waits for it, the exit code is 1,
    and the run took no longer than its timeout and a second."""
    write(shop, "store", critical=True)
    ran = shop.run("up", "fleet.yaml", "--json")
    assert ran.returncode == ExitCode.FAILED
    status = json.loads(ran.stdout)
    assert states(status) == {"store": "failed", "web": "blocked"}
    cause = status["report"][0]
    assert cause["service"] == "store"
    assert "the disk is not mounted" in cause["reason"]
    store = next(service for service in status["profile"]["services"] if service["name"] == "store")
    assert status["profile"]["makespan"] - store["begun"] <= 2.0 + 1.0


def test_what_is_not_critical_takes_nothing_with_it(shop: Shop) -> None:
    """S7 (opentelemetry-demo#3845): a critical service needs one that is not, and that one is down: the start ends degraded with
    the critical service up, the report names the other, and the check of the file had named the edge."""
    write(shop, "flags", critical=False)
    checked = shop.run("check", "fleet.yaml")
    assert "web is critical and needs flags, which is not" in checked.stdout
    assert "[risky-edge]" in checked.stdout
    ran = shop.run("up", "fleet.yaml", "--exit-when-up", "--json")
    assert ran.returncode == ExitCode.OK, ran.stderr
    status = json.loads(ran.stdout)
    assert status["state"] == "degraded"
    assert states(status) == {"flags": "failed", "web": "ready"}
    assert [failure["service"] for failure in status["report"]] == ["flags"]
