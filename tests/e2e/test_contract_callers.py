"""Whom a new version would break, asked of a fleet of real processes before the deploy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fabric.cli.exits import ExitCode
from tests.e2e.shop import SERVICES, Shop, read_until

pytestmark = pytest.mark.processes


def test_a_running_fleet_knows_whom_new_code_would_break(tmp_path: Path) -> None:
    """What the processes have called is written down with their contracts; the new code is held against it: the caller, the
    method, the field and the reason are named, and the exit code stops the deploy."""
    fleet = Shop(tmp_path)
    with fleet.up() as up:
        read_until(up, "Ctrl-C stops it")
        assert fleet.run("call", "web", "buy", '{"item": "pen"}').returncode == ExitCode.OK
        shown = fleet.run("contract", "show", "@running")
        assert shown.returncode == ExitCode.OK, shown.stderr
        assert fleet.run("down").returncode == ExitCode.OK
    (tmp_path / "running.json").write_text(shown.stdout)
    told = json.loads(shown.stdout)["services"]
    assert told.keys() == {"store", "web", "mail"}
    assert [(call["service"], call["method"]) for call in told["web"]["calls"]["made"]] == [("store", "add")]

    same = fleet.run("contract", "check", "running.json", "fleet.yaml")
    assert (same.returncode, same.stdout) == (ExitCode.OK, "3 services compared, 0 breaks\n")
    (tmp_path / "shop.py").write_text(SERVICES.replace("amount: int = 1", "amount: int, unit: str"))
    broken = fleet.run("contract", "check", "running.json", "fleet.yaml")
    assert broken.returncode == ExitCode.FAILED
    assert "store.add takes.unit: required" in broken.stdout
    assert fleet.run("contract", "check", "running.json", "shop:Store").stdout == broken.stdout.replace("3 serv", "1 serv")
    assert "  hits web, which calls add: it sends plain data" in broken.stdout
