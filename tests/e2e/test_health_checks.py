"""Health checks by kind, which decide when a fleet of real processes is up."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from fabric.cli.exits import ExitCode
from tests.e2e.shop import Shop

pytestmark = pytest.mark.processes

SERVICES = '''
import asyncio, os, pathlib
from fabric import Service, rpc


class Site(Service):
    """Listens some time after its start() has returned, and is busy at first."""

    name, answers = "site", 0

    async def start(self) -> None:
        self.task = asyncio.create_task(self.open_late())

    async def open_late(self) -> None:
        await asyncio.sleep(0.3)
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", int(os.environ["PORT"]))

    async def serve(self, reader, writer) -> None:
        if await reader.read(1000):
            self.answers += 1
            writer.write(b"HTTP/1.1 200 OK\\r\\n\\r\\n" if self.answers > 3 else b"HTTP/1.1 503 Busy\\r\\n\\r\\n")
        writer.close()

    @rpc(idempotent=True)
    async def answered(self) -> int:
        pathlib.Path("site-was-called").touch()
        return self.answers


class Caller(Service):
    name = "caller"


class Filed(Service):
    name = "filed"


class Sick(Service):
    name = "sick"
'''
FLEET = """\
name: shop
services:
  site:
    run: "shop:Site"
    critical: true
    env: {PORT: "OPEN"}
    health_checks: [{kind: tcp, target: "127.0.0.1:$PORT"}, {kind: http, target: "http://127.0.0.1:$PORT/ready", expect: "200"}]
  caller: {run: "shop:Caller", critical: true, health_checks: [{kind: dependency, target: site.answered}]}
  filed: {run: "shop:Filed", critical: true, health_checks: [method, {kind: command, target: "test -f site-was-called"}]}
  sick: {run: "shop:Sick", timeout: 4s, health_checks: [{kind: command, target: "echo no tea >&2; exit 7"}]}
stages:
  - {name: all, services: [site, caller, filed, sick], gate: {required: [site, caller, filed]}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_fleet_is_up_when_its_checks_say_so(tmp_path: Path) -> None:
    """TCP, HTTP, a call of a dependency, a command and the class's own: each holds its service back until it says yes, and the
    report has the words of the one that never does."""
    shop = Shop(tmp_path)
    (tmp_path / "shop.py").write_text(SERVICES)
    (tmp_path / "fleet.yaml").write_text(FLEET.replace("OPEN", str(free_port())))
    ran = shop.run("up", "fleet.yaml", "--exit-when-up", "--json")
    assert ran.returncode == ExitCode.OK, ran.stderr
    status = json.loads(ran.stdout)
    states = {service["name"]: service["state"] for service in status["services"]}
    assert states == {"site": "ready", "caller": "ready", "filed": "ready", "sick": "failed"}
    (failure,) = status["report"]
    assert failure["service"] == "sick"
    assert "the check by echo: exit code 7: no tea" in json.dumps(failure)
    ready = {service["name"]: service["ready"] for service in status["profile"]["services"]}
    assert ready["site"] < ready["caller"] < ready["filed"]
