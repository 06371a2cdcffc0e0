"""``fabric restart`` with real processes on the embedded broker."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.cli.exits import ExitCode
from fabric.config import Settings
from fabric.hub import Hub
from tests.e2e.shop import Shop, read_until

pytestmark = pytest.mark.processes

SERVICES = """
import os
from fabric import Service, rpc


class Store(Service):
    name = "store"

    async def start(self) -> None:
        if os.environ.get("MADE") == "nonsense":
            raise ValueError("MADE is not a version: nonsense")

    @rpc(idempotent=True)
    async def which(self) -> list:
        return [os.environ.get("MADE", "old"), os.getpid()]


class Broken(Store):
    async def start(self) -> None:
        raise RuntimeError("no such table: stock")


class Web(Service):
    name = "web"

    @rpc(idempotent=True)
    async def which(self) -> list:
        return [os.environ.get("MADE", "old"), os.getpid()]
"""
FLEET = """\
name: shop
services:
  store: {STORE, critical: true, instances: 2, env: {MADE: "WHAT"}}
  web: {run: "shop:Web", critical: true, dependencies: [store]}
"""


class Yard(Shop):
    """A shop whose two stores can be given another version."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "shop.py").write_text(SERVICES)
        self.say("old")

    def say(self, made: str, store: str = 'run: "shop:Store"') -> None:
        (self.root / "fleet.yaml").write_text(FLEET.replace("STORE", store).replace("WHAT", made))

    @property
    def stores(self) -> dict[str, int]:
        return {name: pid for name, pid in self.record.processes.items() if name.startswith("store")}


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    with yard.up() as up:
        read_until(up, "Ctrl-C stops it")
        yield yard
        assert yard.run("down").returncode == ExitCode.OK


def called_meanwhile(yard: Yard, service: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str], list[str]]:
    """Runs a command, and calls an idempotent method one time after the other until it has ended.

    Returns:
        The command, what was answered, and what failed.
    """

    async def go() -> tuple[subprocess.CompletedProcess[str], list[str], list[str]]:
        answers: list[str] = []
        failures: list[str] = []
        settings = Settings(namespace="shop", instance="")
        async with Hub.connect("caller", url=yard.record.broker_url, settings=settings) as hub:
            command = asyncio.create_task(asyncio.to_thread(yard.run, *arguments))
            while not command.done():
                try:
                    made, _ = await hub.call(service, "which", returns=list, timeout=5.0)
                    answers.append(made)
                except Exception as error:
                    failures.append(repr(error))
                await asyncio.sleep(0.002)
            return await command, answers, failures

    return asyncio.run(go())


def test_a_rolling_restart(yard: Yard) -> None:
    """S13 (nomad#3836): both instances are new processes with the changed environment, and no idempotent call has failed."""
    before = yard.stores
    yard.say("new")
    ran, answers, failures = called_meanwhile(yard, "store", "restart", "store", "--rolling", "--stable-for", "0.3")
    assert ran.returncode == ExitCode.OK, ran.stderr
    assert ran.stdout == "done, 2 instances of store replaced\n"
    assert [line for line in ran.stderr.splitlines() if "starting" in line] == [
        "running: starting store-1",
        "running: starting store-2",
    ]
    assert failures == []
    assert {"old", "new"} == set(answers)
    after = yard.stores
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert json.loads(yard.run("status", "--json").stdout)["state"] == "up"


@pytest.mark.parametrize(
    ("made", "store", "reason"),
    [
        ("new", 'run: "shop:Broken"', "no such table: stock"),
        ("nonsense", 'run: "shop:Store"', "MADE is not a version: nonsense"),
        ("new", 'command: [python, -c, "raise SystemExit(9)"]', "exited with code 9"),
    ],
    ids=["code", "configuration", "command"],
)
def test_a_broken_version_is_taken_back(yard: Yard, made: str, store: str, reason: str) -> None:
    """S13 (nomad#3836): a class that can't start, a configuration that it refuses and a command that ends are replaced by what
    ran before, with the reason; the second instance is never touched, and no idempotent call has failed."""
    before = yard.stores
    yard.say(made, store)
    ran, answers, failures = called_meanwhile(yard, "store", "restart", "store", "--rolling", "--stable-for", "0.3")
    assert ran.returncode == ExitCode.FAILED
    assert ran.stdout.startswith("reverted, 0 instances of store replaced: ")
    assert reason in ran.stdout
    assert failures == []
    assert set(answers) == {"old"}
    after = yard.stores
    assert (before["store-2"], before["store-1"] != after["store-1"]) == (after["store-2"], True)
    assert json.loads(yard.run("call", "store", "which", "--instance", "store-1").stdout) == ["old", after["store-1"]]


def test_a_single_instance_needs_a_surge(yard: Yard) -> None:
    """S13 (nomad#6864): one replica is refused, with a surge a second process covers for it and is gone in the end; without
    --rolling it is simply restarted."""
    refused = yard.run("restart", "web", "--rolling")
    assert refused.returncode == ExitCode.FAILED
    assert "allow a surge" in refused.stderr
    first = yard.record.processes["web-1"]
    ran, answers, failures = called_meanwhile(yard, "web", "restart", "web", "--rolling", "--surge", "--stable-for", "0.3")
    assert ran.returncode == ExitCode.OK, ran.stderr
    assert failures == []
    assert answers
    second = yard.record.processes["web-1"]
    assert second != first
    assert "web-2" not in yard.record.processes
    assert yard.run("restart", "web").returncode == ExitCode.OK
    assert yard.record.processes["web-1"] != second


def test_a_wrong_file_changes_nothing(yard: Yard) -> None:
    """A fleet file that can't be read any more, and an unknown service, are refused before anything is stopped."""
    before = yard.record.processes
    (yard.root / "fleet.yaml").write_text("name: shop\nservices: {store: {run: nonsense}}\n")
    ran = yard.run("restart", "store", "--rolling")
    assert ran.returncode == ExitCode.FAILED
    assert "'nonsense' is not MODULE:CLASS" in ran.stderr
    assert "ghost" in yard.run("restart", "ghost", "--rolling").stderr
    assert yard.record.processes == before
