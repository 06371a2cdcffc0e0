"""``fabric contract``: show, check and asyncapi."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fabric.cli.exits import ExitCode
from tests.unit.cli.conftest import Cli

SERVICE = """\
from fabric import Service, rpc
class Mailer(Service):
    name = 'mailer'
    @rpc()
    async def send(self, to: str) -> int: ...
class Stricter(Service):
    name = 'mailer'
    @rpc()
    async def send(self, to: str, subject: str) -> int: ...
"""


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with two versions of a service, made the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "contracted_mail.py").write_text(SERVICE)
    (tmp_path / "fleet.yaml").write_text("name: mail\nservices:\n  mailer: {run: contracted_mail:Mailer}\n")
    yield tmp_path
    sys.modules.pop("contracted_mail", None)


def test_a_break_is_found_before_a_deploy(classes: Path, cli: Cli) -> None:
    """What `show` wrote is compared with the next version: exit code 1 and the place of the break, or 0."""
    (classes / "old.json").write_text(cli("contract", "show", "contracted_mail:Mailer").out)
    assert cli("contract", "check", "old.json", "fleet.yaml").code == ExitCode.OK
    ran = cli("contract", "check", "old.json", "contracted_mail:Stricter")
    assert ran.code == ExitCode.FAILED
    assert "mailer.send takes.subject: required" in ran.out
    told = json.loads(cli("contract", "check", "fleet.yaml", "contracted_mail:Stricter", "--json").out)
    assert [each["rule"] for each in told["breaks"]] == ["required"]


def test_asyncapi_of_a_fleet(classes: Path, cli: Cli) -> None:
    """It is named as the fleet, with the fleet's namespace, in YAML or the same in JSON."""
    ran = cli("contract", "asyncapi", "fleet.yaml", "--namespace", "blue")
    document = yaml.safe_load(ran.out)
    assert document["info"]["title"] == "mail"
    assert document["channels"]["mailer.send.request"]["bindings"]["amqp"]["exchange"]["name"] == "blue.rpc"
    assert json.loads(cli("contract", "asyncapi", "fleet.yaml", "--namespace", "blue", "--json").out) == document


@pytest.mark.parametrize("source", ["nowhere.json", "broken.json", "nowhere:Class", "nowhere.yaml"])
def test_what_cannot_be_read(classes: Path, cli: Cli, source: str) -> None:
    """A file or class that is not there, or no JSON: exit code 2 and its name."""
    (classes / "broken.json").write_text("{")
    ran = cli("contract", "show", source)
    assert ran.code == ExitCode.CONFIGURATION
    assert source.partition(":")[0] in ran.err
