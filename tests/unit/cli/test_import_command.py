"""``fabric import``."""

from __future__ import annotations

import json
from pathlib import Path

from fabric.cli.exits import ExitCode
from fabric.coordination.fleet import load_fleet
from tests.unit.cli.conftest import Cli

COMPOSE = """\
services:
  db: {labels: {service.criticality: low}, profiles: [full]}
  web: {labels: {service.criticality: critical}, depends_on: {db: {condition: service_started}}, image: "${IMAGE}"}
"""


def test_a_fleet_file_from_compose(cli: Cli, shop: Path) -> None:
    """The file goes to standard output or where it is wanted, what it comes to is told beside it, nothing is replaced unasked."""
    (shop / "compose.yaml").write_text(COMPOSE)
    ran = cli("import", "compose", "compose.yaml", "--profile", "full", "--name", "mall")
    assert ran.code == ExitCode.OK, ran.err
    (shop / "printed.yaml").write_text(ran.out)
    assert ran.err.splitlines() == [
        "2 services, 1 dependencies, 2 deep",
        "Not set, and taken as empty: IMAGE.",
        "compose.yaml:3: web (critical) needs db (low)",
    ]
    written = cli("import", "compose", "compose.yaml", "--profile", "*", "--name", "mall", "-o", "mall.yaml")
    assert written.out.startswith("written to mall.yaml")
    assert (shop / "mall.yaml").read_text().rstrip() == (shop / "printed.yaml").read_text().rstrip()
    assert load_fleet("mall.yaml").graph["web"].critical
    again = cli("import", "compose", "compose.yaml", "--profile", "full", "-o", "mall.yaml")
    assert again.code == ExitCode.CONFIGURATION
    assert "--force replaces it" in again.err
    assert cli("import", "compose", "compose.yaml", "--profile", "full", "-o", "mall.yaml", "--force").code == ExitCode.OK
    assert cli("check", "mall.yaml").code == ExitCode.OK


def test_as_json(cli: Cli, shop: Path) -> None:
    """Counts, notes and risky edges are data with --json."""
    (shop / "compose.yaml").write_text(COMPOSE)
    told = json.loads(cli("import", "compose", "compose.yaml", "--profile", "full", "--json").out)
    assert (told["services"], told["edges"], told["conditions"], told["depth"]) == (["db", "web"], 1, {"started": 1}, 2)
    assert told["risky"] == [{"service": "web", "needs": "db", "source": "compose.yaml:3"}]
    refused = cli("import", "compose", "compose.yaml", "--json")
    assert refused.code == ExitCode.CONFIGURATION
    assert "named and not defined: db" in json.loads(refused.err)["error"]["message"]


def test_from_units_and_manifests(cli: Cli, shop: Path) -> None:
    """systemd units and Kubernetes manifests come in by the same way."""
    (shop / "web.service").write_text("[Service]\nExecStart=/bin/web\n")
    assert "command: [/bin/web]" in cli("import", "systemd", ".", "--name", "x").out
    (shop / "web.k8s.yaml").write_text("kind: Pod\nmetadata: {name: web}\n")
    assert "  web:" in cli("import", "kubernetes", "web.k8s.yaml").out
