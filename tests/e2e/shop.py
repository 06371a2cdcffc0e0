"""A small fleet in a directory of its own, and the command line on it, for tests with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from fabric.cli.record import Record, running_fleets

SERVICES = """
import asyncio, os, pathlib, sys
from fabric import Health, Service, ServiceError, rpc


class Store(Service):
    name, capabilities = "store", ("counting",)

    async def start(self) -> None:
        self.count = 0

    @rpc()
    async def add(self, amount: int = 1) -> int:
        self.count += amount
        return self.count

    @rpc(idempotent=True)
    async def process(self) -> int:
        return os.getpid()


class Web(Service):
    name, dependencies = "web", ("store",)

    async def stop(self) -> None:
        print("web stops", flush=True)

    @rpc()
    async def buy(self, item: str) -> dict:
        if item == "moon":
            raise ServiceError("not for sale", code="shop.not-for-sale")
        return {"item": item, "sold": await self.hub.call("store", "add", {"amount": 1})}


class Mail(Service):
    name = "mail"

    async def start(self) -> None:
        match os.environ.get("MAIL"):
            case "broken":
                raise RuntimeError("no mail server at mx.shop")
            case "crash":
                print("mail: the disk is full", flush=True)
                os._exit(3)
            case "slow":
                pathlib.Path("mail-is-starting").touch()
                await asyncio.sleep(300)

    async def stop(self) -> None:
        if os.environ.get("MAIL") == "stuck":
            pathlib.Path("mail-is-stopping").touch()
            await asyncio.sleep(300)
"""

FLEET = """\
name: shop
services:
  store: {run: "shop:Store", critical: true, instances: 2, retry: {attempts: 1, delay: 100ms}}
  web: {run: "shop:Web", critical: true, dependencies: [store]}
  mail: {run: "shop:Mail", critical: CRITICAL, dependencies: [store]}
stages:
  - {name: base, services: [store], gate: {required: [store]}}
  - {name: front, services: [web, mail], gate: {required: [web]}}
"""


class Shop:
    """A directory with a fleet of three services in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "shop.py").write_text(SERVICES)
        self.write(critical=False)

    def write(self, *, critical: bool) -> None:
        (self.root / "fleet.yaml").write_text(FLEET.replace("CRITICAL", "true" if critical else "false"))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "fabric.cli", *arguments]

    def environment(self, mail: str = "", broker_url: str = "") -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
        return {**kept, "MAIL": mail, **({"FABRIC_BROKER_URL": broker_url} if broker_url else {})}

    def run(self, *arguments: str, mail: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment(mail),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    @contextmanager
    def up(self, *arguments: str, mail: str = "", broker_url: str = "") -> Iterator[subprocess.Popen[str]]:
        """`fabric up` in the background, killed at the end if it still runs."""
        with subprocess.Popen(
            self.command("up", "fleet.yaml", *arguments),
            cwd=self.root,
            env=self.environment(mail, broker_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as up:
            try:
                yield up
            finally:
                up.kill()

    @property
    def record(self) -> Record:
        (found,) = running_fleets(self.root)
        return found

    def log(self, instance: str) -> str:
        return (self.root / ".fabric" / "shop" / "logs" / f"{instance}.log").read_text()


def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def read_until(up: subprocess.Popen[str], text: str) -> list[str]:
    """The lines of its output up to one that contains ``text``."""
    assert up.stdout is not None
    lines = []
    for line in up.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"it ended with {up.wait()} and without {text!r}:\n" + "\n".join(lines))


def family(up: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(up.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
