"""From a fleet to its processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fabric.cli.launch import Launch
from fabric.cli.process import Restart
from fabric.coordination.fleet import load_fleet, parse_fleet
from fabric.coordination.health_checks import load_checks
from fabric.errors import ConfigurationError


@pytest.fixture
def launch(shop: Path) -> Launch:
    return Launch(fleet=load_fleet("shop.yaml"), broker_url="amqp://me:secret@host", namespace="ns", root=shop)


def test_one_process_an_instance_in_the_order_of_the_start(launch: Launch) -> None:
    """Early stages come first, in each stage what others need; services in no stage come last."""
    assert [spec.name for spec in launch.services()] == ["schema-1", "store-1", "store-2", "mail-1", "web-1", "extra-1"]


def test_processes_know_their_place(launch: Launch, shop: Path) -> None:
    """Each is told the broker, the namespace, its instance and that it is managed, and gets its own environment."""
    specs = {spec.name: spec for spec in launch.services()}
    second = specs["store-2"]
    assert second.argv == (sys.executable, "-m", "fabric.cli", "run", "shop.store:Store")
    assert second.cwd == shop
    told = {name: second.env[name] for name in second.env if name.startswith("FABRIC_")}
    assert told == {
        "FABRIC_BROKER_URL": "amqp://me:secret@host",
        "FABRIC_BROKER_URL_FILE": "",
        "FABRIC_NAMESPACE": "ns",
        "FABRIC_INSTANCE": "store-2",
        "FABRIC_INSTANCE_NUMBER": "2",
        "FABRIC_MANAGED": "1",
    }
    assert specs["mail-1"].env["FROM"] == "me@shop"
    assert specs["schema-1"].argv == ("migrate",)
    assert specs["store-1"].env["PATH"].startswith(str(Path(sys.executable).parent))
    assert "secret" not in repr(launch)
    assert "secret" not in repr(second)


def test_the_fork_server_knows_what_all_have_in_common(launch: Launch, shop: Path) -> None:
    """It gets the environment of the fleet and none of a single service, and the services' modules only if the file says so."""
    spec = launch.fork_server()
    assert (spec.environment, spec.cwd, spec.modules) == (launch.environment(), shop, ())
    assert "secret" not in repr(spec)
    (shop / "shop.yaml").write_text((shop / "shop.yaml").read_text() + "fork_server: preload\n")
    preloading = Launch(fleet=load_fleet("shop.yaml"), broker_url="unix:///s", namespace="ns", root=shop)
    assert preloading.fork_server().modules == ("shop.store", "shop.web", "shop.mail", "shop.extra")


def test_policies_of_the_file_reach_every_process(launch: Launch, shop: Path) -> None:
    """Services, coordinator and fork server get them as a hub reads them, and who hands out more."""
    text = (shop / "shop.yaml").read_text()
    (shop / "shop.yaml").write_text(text + "policies: {from: extra, default: {balancing: p2c}}\n")
    launch = Launch(fleet=load_fleet("shop.yaml"), broker_url="unix:///s", namespace="ns", root=shop)
    for environment in (
        launch.environment(),
        launch.coordinator().env,
        launch.fork_server().environment,
        *(s.env for s in launch.services()),
    ):
        assert json.loads(environment["FABRIC_POLICIES"]) == {"default": {"balancing": "p2c"}, "services": {}}
        assert environment["FABRIC_POLICIES_FROM"] == "extra"


def test_health_checks_of_the_file_reach_their_processes(shop: Path) -> None:
    """What differs from a class's own check is in the environment of its processes and of no others."""
    text = "name: s\nservices:\n  a: {run: x:A}\n  b: {run: x:B, health_checks: [{kind: tcp, target: 'h:1', interval: 1s}]}\n"
    launch = Launch(
        fleet=parse_fleet(text + "  c: {run: x:C, health_checks: []}\n", "s.yaml"), broker_url="u", namespace="n", root=shop
    )
    checks = {spec.name: spec.env.get("FABRIC_HEALTH_CHECKS") for spec in launch.services()}
    assert checks["a-1"] is None
    assert [(check.kind, check.target, check.interval) for check in load_checks(checks["b-1"] or "")] == [("tcp", "h:1", 1.0)]
    assert checks["c-1"] == "[]"


def test_restarts_follow_the_retry_policy(launch: Launch) -> None:
    """A process is started as often before it was up as the service's policy has attempts."""
    specs = {spec.name: spec for spec in launch.services()}
    assert specs["mail-1"].restart == Restart(attempts=4, delay=0.1)
    assert specs["web-1"].restart == Restart(attempts=1)


def test_a_service_that_others_start_is_refused_with_its_line(tmp_path: Path) -> None:
    """A file that does not say how a service is started can't be brought up from here."""
    fleet = parse_fleet("name: s\nservices:\n  a: {}\n", "s.yaml")
    launch = Launch(fleet=fleet, broker_url="u", namespace="n", root=tmp_path)
    with pytest.raises(ConfigurationError, match=r"^s\.yaml:3: service a has neither run nor command"):
        list(launch.services())
