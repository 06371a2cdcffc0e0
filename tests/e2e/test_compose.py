"""docker-compose.yml brought up whole, and called from outside."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fabric import Hub, Settings
from fabric.coordination.fleet import load_fleet
from fabric.coordination.status import FleetStatus, RunState
from services.todo.contracts import TextInsight, TodoPriority
from tests.brokers.node import free_port

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
FLEET = ROOT / "services/todo/fleet.yaml"
docker = pytest.mark.docker


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """How the running project is reached."""

    gateway: str
    token: str
    broker_url: str

    def http(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.gateway + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=15.0) as answer:
            return json.load(answer)


def why_no_engine() -> str:
    """Empty where a Docker engine with compose answers."""
    if not shutil.which("docker"):
        return "there is no docker command"
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            return f"{' '.join(command)}: {done.stderr.strip()}"
    return ""


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed]:
    """The whole project under a name, an image and ports of its own; removed with its volumes in the end."""
    if reason := why_no_engine():
        pytest.skip(reason)
    project = f"fabric-test-{secrets.token_hex(4)}"
    rabbitmq, management, gateway = free_port(), free_port(), free_port()
    token, password = secrets.token_hex(8), secrets.token_hex(8)
    environment = {
        **os.environ,
        "FABRIC_IMAGE": project,
        "RABBITMQ_PORT": str(rabbitmq),
        "RABBITMQ_UI_PORT": str(management),
        "RABBITMQ_PASSWORD": password,
        "GATEWAY_PORT": str(gateway),
        "GATEWAY_TOKEN": token,
    }

    def compose(*arguments: str, timeout: float, check: bool = True) -> str:
        command = ["docker", "compose", "--project-name", project, "--file", str(ROOT / "docker-compose.yml"), *arguments]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            logs = compose("logs", "--no-color", "--tail", "15", timeout=60, check=False)
            pytest.fail(f"docker compose {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}\n{logs}")
        return done.stdout

    try:
        compose("build", "--quiet", timeout=600)
        compose("up", "--detach", "--wait", "--wait-timeout", "240", timeout=300)
        yield Composed(
            gateway=f"http://127.0.0.1:{gateway}",
            token=token,
            broker_url=f"amqp://fabric:{password}@127.0.0.1:{rabbitmq}/",
        )
    finally:
        compose("down", "--volumes", "--remove-orphans", "--timeout", "10", timeout=180, check=False)
        subprocess.run(["docker", "image", "rm", "--force", project], capture_output=True, timeout=60, check=False)


@docker
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_composed_fleet_answers_from_outside(composed: Composed) -> None:
    """Over HTTP with the token a to-do is created, completed and read back in the fleet of containers."""
    created = composed.http("POST", "/todos", {"title": "Water the plants"})
    done = composed.http("PATCH", f"/todos/{created['id']}", {"done": True})
    page = composed.http("GET", f"/todos?status=done&at_least={done['position']}")
    assert [todo["id"] for todo in page["todos"]] == [created["id"]]


@docker
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_composed_fleet_answers_on_the_bus(composed: Composed) -> None:
    """Over AMQP from this machine the coordinator says that all is up, and a capability answers."""
    async with Hub.connect("outside", url=composed.broker_url, settings=Settings(namespace="todo")) as hub:
        status = await hub.call("coordinator", "status", returns=FleetStatus)
        assert status.state is RunState.UP, status
        assert {service.name for service in status.services} == set(load_fleet(FLEET).graph.services)
        insight = await hub.call_by_capability("text-analysis", "analyze", {"text": "Urgent: pay rent"}, returns=TextInsight)
        assert insight.priority == TodoPriority.HIGH


def test_every_service_of_the_fleet_is_composed() -> None:
    """The containers are the fleet file's services, each with the class that it names, and the broker and the coordinator."""
    services = COMPOSE["services"]
    fleet = load_fleet(FLEET)
    assert set(services) == {"rabbitmq", "coordinator", *fleet.graph.services}
    for name, run in fleet.runs.items():
        assert services[name]["command"] == ["run", run.target], name


def test_containers_are_checked_and_reachable_from_this_machine_only() -> None:
    """Each has a health check, waits for the broker only, and publishes ports on 127.0.0.1 from variables, not the usual ones."""
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"], name
        assert set(service.get("depends_on", {})) <= {"rabbitmq"}, name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:${"), port
            assert ":-5672}" not in port
            assert ":-25672}" not in port
