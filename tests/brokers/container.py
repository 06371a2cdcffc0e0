"""A RabbitMQ node in a container, by testcontainers."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import subprocess
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.brokers.node import CLUSTERED_VM, IMAGES, QUIET_VM, BrokerUnavailable, free_port, wait_for_amqp

TLS_PORT = 5671
"""Inside the container."""

_OWNER = "fabric.test.owner"
_PULL_SECONDS = 60.0
_START_SECONDS = 60.0


class ContainerNode:
    """A container that is ours alone."""

    ours = True

    def __init__(self, container: Any, port: int, tls_port: int, version: str) -> None:
        self._container, self._port, self.tls_port, self.version = container, port, tls_port, version
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        self._stopped = False

    @property
    def _docker(self) -> Any:
        return self._container.get_wrapped_container()

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        code, output = self._container.exec(["timeout", str(timeout), "rabbitmqctl", "--quiet", *arguments])
        text: str = output.decode(errors="replace")
        if code:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: exit code {code}: {text.strip()}")
        return text

    def pause(self) -> None:
        self._docker.pause()

    def resume(self) -> None:
        self._docker.unpause()

    def kill(self) -> None:
        self._docker.kill()

    def shut_down(self) -> None:
        self._docker.stop(timeout=30)

    def start(self) -> None:
        self._docker.start()
        self.wait()

    def wait(self) -> None:
        if not wait_for_amqp("127.0.0.1", self._port, timeout=_START_SECONDS):
            log = self._docker.logs(tail=30).decode(errors="replace")
            raise BrokerUnavailable(f"RabbitMQ in a container did not answer within {_START_SECONDS:g} s:\n{log}")

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        client = self._container.get_docker_client().client
        try:
            with contextlib.suppress(Exception):
                self._docker.unpause()
            self._container.stop(force=True, delete_volume=True)
        finally:
            client.close()


@contextlib.contextmanager
def _engine() -> Iterator[Any]:
    docker = importlib.import_module("docker")
    client, trouble = None, ""
    try:
        client = docker.from_env(timeout=10)
    except Exception as error:
        trouble = str(error)
    if client is None:
        # docker-py leaves the socket open that did not connect, and the warning would hit some later test.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        raise BrokerUnavailable(f"no Docker engine: {trouble}")
    try:
        client.ping()
        yield client
    except docker.errors.DockerException as error:
        raise BrokerUnavailable(f"the Docker engine did not do it: {error}") from error
    finally:
        client.close()


def _has_image(client: Any, image: str) -> bool:
    return any(image in known.tags for known in client.images.list())


def _choose_image(client: Any, version: str | None) -> str:
    """A local image if there is one; otherwise one attempt to pull, with a limit, because there may be no registry."""
    wanted = [IMAGES[version]] if version else ["rabbitmq:4-management", *reversed(IMAGES.values())]
    for image in wanted:
        if _has_image(client, image):
            return image
    if not shutil.which("docker"):
        raise BrokerUnavailable(f"none of the images {', '.join(wanted)} is here, and no docker command to pull one")
    try:
        subprocess.run(["docker", "pull", "--quiet", wanted[0]], check=True, capture_output=True, timeout=_PULL_SECONDS)
    except (subprocess.SubprocessError, OSError) as error:
        raise BrokerUnavailable(f"none of the images {', '.join(wanted)} is here, and pulling failed: {error}") from error
    return wanted[0]


def _remove_orphans(client: Any) -> None:
    """Containers whose owner was killed before it could remove them."""
    for container in client.containers.list(all=True, filters={"label": _OWNER}):
        pid = container.labels[_OWNER]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(Exception):
                container.remove(force=True, v=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A node's place in a cluster: the network that its members share, its name there, and what they know each other by."""

    network: str
    name: str
    cookie: str


@contextlib.contextmanager
def network() -> Iterator[str]:
    """A network of our own for containers, gone at the end.

    Raises:
        BrokerUnavailable: no engine.
    """
    with _engine() as client:
        for old in client.networks.list(filters={"label": _OWNER}):
            pid = old.attrs["Labels"][_OWNER]
            if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                with contextlib.suppress(Exception):
                    old.remove()
        made = client.networks.create(f"fabric-{uuid.uuid4().hex[:12]}", labels={_OWNER: str(os.getpid())})
        try:
            yield str(made.name)
        finally:
            made.remove()


def start_container(version: str | None = None, *, seat: Seat | None = None) -> ContainerNode:
    """Start a node in a container of its own, on a free port of 127.0.0.1.

    Args:
        version: one of ``IMAGES``; None takes the newest that is here.
        seat: where it sits in a cluster that it will be told to join.

    Raises:
        BrokerUnavailable: no engine, no image, or it did not start.
    """
    os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    with _engine() as client:
        _remove_orphans(client)
        image = _choose_image(client, version)
    from testcontainers.core.container import DockerContainer

    port, tls_port = free_port(), free_port()
    ports: dict[str, Any] = {"5672/tcp": ("127.0.0.1", port), f"{TLS_PORT}/tcp": ("127.0.0.1", tls_port)}
    container = (
        DockerContainer(image)
        .with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", QUIET_VM)
        .with_kwargs(labels={_OWNER: str(os.getpid())})
    )
    container.ports.update(ports)
    if seat is not None:
        container.with_env("RABBITMQ_ERLANG_COOKIE", seat.cookie).with_env("RABBITMQ_NODENAME", f"rabbit@{seat.name}")
        container.with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", CLUSTERED_VM)
        container.with_name(seat.name).with_kwargs(labels={_OWNER: str(os.getpid())}, hostname=seat.name, network=seat.network)
    container.start()
    node = ContainerNode(container, port, tls_port, "")
    try:
        node.wait()
        node.version = node.ctl("version").strip()
    except BaseException:
        node.stop()
        raise
    return node
