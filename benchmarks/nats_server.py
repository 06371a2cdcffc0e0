"""A nats-server of our own for the comparison: an installed one, or the distribution's package unpacked beside our results."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.broker import Broker
from benchmarks.measure import RESULTS, note
from tests.brokers.node import free_port

UNPACKED = RESULTS / "nats-server"


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, timeout=300)


def find_program(*, unpacked: Path = UNPACKED) -> str | None:
    """An installed server, or one unpacked here before."""
    return shutil.which("nats-server") or shutil.which("nats-server", path=str(unpacked / "usr/sbin"))


def get_program(*, unpacked: Path = UNPACKED) -> str | None:
    """As :func:`find_program`; as root the package is fetched if there is none. It is not installed, so no service starts."""
    if found := find_program(unpacked=unpacked):
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        note("no nats-server is installed, and only root with apt-get could get it")
        return None
    unpacked.mkdir(parents=True, exist_ok=True)
    try:
        _run("apt-get", "update", "-qq")
        _run("apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", "nats-server", cwd=unpacked)
        for package in unpacked.glob("nats-server_*.deb"):
            _run("dpkg-deb", "-x", str(package), str(unpacked))
    except subprocess.SubprocessError as error:
        note(f"getting nats-server failed: {error}")
        return None
    return find_program(unpacked=unpacked)


@contextmanager
def nats_server() -> Iterator[Broker | None]:
    """A running server, or None when none can be had."""
    program = get_program()
    if program is None:
        yield None
        return
    port = free_port()
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout.split()[-1]
    process = subprocess.Popen(
        [program, "-a", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        broker = Broker.at(f"nats://127.0.0.1:{port}", version)
        limit = time.monotonic() + 10
        while not broker.processes and time.monotonic() < limit:
            time.sleep(0.05)
            broker = Broker.at(broker.url, version)
        yield broker
    finally:
        process.terminate()
        process.wait(10)
