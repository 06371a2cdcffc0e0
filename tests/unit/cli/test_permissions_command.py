"""``fabric permissions``: what each service has to be allowed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.cli.exits import ExitCode
from tests.unit.cli.conftest import Cli


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a service in it, made the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "permitted_mail.py").write_text("from fabric import Service\nclass Mailer(Service):\n    name = 'mailer'\n")
    yield tmp_path
    sys.modules.pop("permitted_mail", None)


def test_the_command(classes: Path, cli: Cli) -> None:
    """`fabric permissions FLEET` prints commands for a shell or definitions, for the namespace and virtual host asked for."""
    (classes / "fleet.yaml").write_text("name: post\nservices:\n  mailer: {run: permitted_mail:Mailer}\n")
    ran = cli("permissions", "fleet.yaml", "--vhost", "prod", "--client", "web")
    assert ran.code == ExitCode.OK
    assert "rabbitmqctl set_permissions -p prod mailer '^(amq" in ran.out
    assert "rabbitmqctl set_permissions -p prod web '^(amq" in ran.out
    told = json.loads(cli("permissions", "fleet.yaml", "--namespace", "blue", "--json").out)
    assert {exchange["name"] for exchange in told["exchanges"]} >= {"blue.rpc", "blue.control"}
    assert {each["user"] for each in told["permissions"]} == {"mailer", "coordinator", "fabric-cli"}
    assert cli("permissions", "fleet.yaml", "--client", "a b").code == ExitCode.CONFIGURATION


def test_the_reference_fleet(cli: Cli) -> None:
    """Every service of the reference fleet has its permissions, and only those that take events the default exchange."""
    told = json.loads(cli("permissions", "services/todo/fleet.yaml", "--json").out)
    publishers = {each["user"] for each in told["permissions"] if "amq\\.default" in each["write"]}
    assert publishers == {"read-model-manager", "rag-service", "email-service", "fabric-cli"}
    assert len(told["permissions"]) > 10
