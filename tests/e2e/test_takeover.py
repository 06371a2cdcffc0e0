"""A coordinator that is killed while it brings a fleet of processes up: nothing is started again, and the run goes on."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiormq
import psutil
import pytest

from fabric import Hub
from fabric.cli.record import FleetDirectory, Record
from fabric.config import Settings
from fabric.coordination.status import FleetStatus, RunState
from fabric.errors import CallError
from tests.brokers.node import BrokerNode

pytestmark = [pytest.mark.processes, pytest.mark.timeout(150)]

SERVICES = """
import asyncio, os, pathlib
from fabric import Service


class Part(Service):
    name = "part"

    async def start(self) -> None:
        with open("starts", "a") as starts:
            starts.write(f"{self.name} {os.getpid()}\\n")
        while pathlib.Path(f"hold-{self.name}").exists():
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        with open("stops", "a") as stops:
            stops.write(f"{self.name}\\n")


class Store(Part):
    name = "store"


class Mail(Part):
    name = "mail"


class Web(Part):
    name = "web"
"""

FLEET = """\
name: shop
namespace: NAMESPACE
services:
  store: {run: "takeover:Store", critical: true}
  mail: {run: "takeover:Mail", critical: true}
  web: {run: "takeover:Web", critical: true, dependencies: [store, mail]}
"""


class Shop:
    """A fleet that ``fabric up`` runs in a directory; ``mail`` takes as long to start as the test wants."""

    def __init__(self, root: Path, broker_url: str) -> None:
        self.root, self.namespace = root, f"test-{secrets.token_hex(6)}"
        (root / "takeover.py").write_text(SERVICES)
        (root / "fleet.yaml").write_text(FLEET.replace("NAMESPACE", self.namespace))
        (root / "hold-mail").touch()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
        self.environment = {**kept, **({"FABRIC_BROKER_URL": broker_url} if broker_url else {})}
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.root / f"output-{len(self._running)}").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fabric.cli", *arguments],
                cwd=self.root,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    @property
    def record(self) -> Record | None:
        return FleetDirectory(self.root, "shop").read()

    def pid(self, process: str) -> int:
        return self.record.processes.get(process, 0) if self.record else 0

    def lines(self, name: str) -> Counter[str]:
        path = self.root / name
        return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()

    def started(self, service: str, times: int) -> bool:
        return self.lines("starts")[service] == times

    async def until(self, fits: Callable[[], bool], what: str, *, alive: bool = True) -> None:
        """``alive``: whether all that was begun last must go on meanwhile."""
        deadline = time.monotonic() + 40
        while not fits():
            if time.monotonic() > deadline or (alive and self._running[-1].poll() is not None):
                output = "\n".join(path.read_text() for path in self.root.glob("output-*"))
                logs = "\n".join(path.read_text() for path in self.root.glob(".fabric/shop/logs/coordinator*.log"))
                pytest.fail(f"{what}:\n{output}\n{logs}")
            await asyncio.sleep(0.05)

    async def status(self, hub: Hub, fits: Callable[[FleetStatus], bool], what: str) -> FleetStatus:
        last: list[FleetStatus] = []

        async def ask() -> bool:
            try:
                last[:] = [await hub.call("coordinator", "status", returns=FleetStatus, timeout=2.0)]
            except CallError:
                return False
            return fits(last[0])

        deadline = time.monotonic() + 40
        while not await ask():
            if time.monotonic() > deadline:
                await self.until(lambda: False, f"{what}, not {last}")
            await asyncio.sleep(0.05)
        return last[0]

    def end(self) -> None:
        for process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running:
            process.wait(60)


@asynccontextmanager
async def half_up(root: Path, broker_url: str = "") -> AsyncIterator[tuple[Shop, Hub, FleetStatus]]:
    """A fleet in the middle of its start: store is up, mail is starting, web waits."""
    shop = Shop(root, broker_url)
    try:
        shop.run("up", "fleet.yaml")
        await shop.until(lambda: shop.lines("starts")["mail"] == 1 and shop.pid("coordinator") > 0, "mail did not start")
        assert shop.record is not None
        settings = Settings(namespace=shop.namespace, broker_url=None)
        async with Hub.connect("test", url=shop.record.broker_url, settings=settings) as hub:
            yield shop, hub, await shop.status(hub, lambda status: bool(status.run), "no run began")
    finally:
        shop.end()


async def kill_and_finish(shop: Shop, hub: Hub, before: FleetStatus) -> FleetStatus:
    """Kill the coordinator, wait for the next one to lead, and let the start go on to its end."""
    killed = shop.pid("coordinator")
    os.kill(killed, signal.SIGKILL)
    after = await shop.status(hub, lambda status: status.epoch > before.epoch, "nobody took over")
    assert after.run == before.run
    assert after.state is RunState.STARTING
    (shop.root / "hold-mail").unlink()
    status = await shop.status(hub, lambda status: status.state.is_settled, "the run did not end")
    assert (status.run, status.state) == (before.run, RunState.UP)
    assert shop.lines("starts") == {"store": 1, "mail": 1, "web": 1}
    assert not shop.lines("stops")
    assert shop.pid("coordinator") != killed
    return status


async def test_a_killed_coordinator_is_started_again_and_resumes(tmp_path: Path) -> None:
    """S2: on the embedded broker; the supervisor starts it again, and the same run goes on, also after a second kill."""
    async with half_up(tmp_path) as (shop, hub, before):
        up = await kill_and_finish(shop, hub, before)
        os.kill(shop.pid("coordinator"), signal.SIGKILL)
        again = await shop.status(hub, lambda status: status.epoch > up.epoch and status.state.is_settled, "nobody took over")
        assert (again.run, again.state) == (before.run, RunState.UP)
        assert shop.lines("starts") == {"store": 1, "mail": 1, "web": 1}
    assert shop.lines("stops") == {"store": 1, "mail": 1, "web": 1}


async def test_a_leader_that_was_stopped_and_wakes_up_stands_by(tmp_path: Path) -> None:
    """S2, S18: SIGSTOP keeps its link and silences it; another one leads and finishes the run, and SIGCONT changes nothing."""
    async with half_up(tmp_path) as (shop, hub, before):
        assert shop.record is not None
        standby = {"FABRIC_INSTANCE": "coordinator-2", "FABRIC_BROKER_URL": shop.record.broker_url}
        shop.run("coordinator", "fleet.yaml", **standby)
        await shop.until(lambda: any(i.id == "coordinator-2" for i in hub.registry.instances("coordinator")), "no standby")
        stopped = shop.pid("coordinator")
        os.kill(stopped, signal.SIGSTOP)
        try:
            taken = await shop.status(hub, lambda status: status.epoch > before.epoch, "nobody took over")
        finally:
            os.kill(stopped, signal.SIGCONT)

        def stands_by() -> bool:
            known = {instance.id: instance for instance in hub.registry.instances("coordinator")}
            return "coordinator-1" in known and "coordinator-2 leads" in known["coordinator-1"].health.reason

        await shop.until(stands_by, "the old leader does not stand by")
        (shop.root / "hold-mail").unlink()
        status = await shop.status(hub, lambda status: status.state.is_settled, "the run did not end")
        assert (status.run, status.state, status.epoch) == (before.run, RunState.UP, taken.epoch)
        assert shop.lines("starts") == {"store": 1, "mail": 1, "web": 1}
        assert not shop.lines("stops")


async def test_a_standby_takes_over_on_rabbitmq(tmp_path: Path, broker: BrokerNode) -> None:
    """S2: on RabbitMQ, with a second coordinator at hand; whoever comes first goes on with the same run."""
    async with half_up(tmp_path, broker.url) as (shop, hub, before):
        shop.run("coordinator", "fleet.yaml", FABRIC_INSTANCE="coordinator-2")
        await shop.until(lambda: any(i.id == "coordinator-2" for i in hub.registry.instances("coordinator")), "no standby")
        await kill_and_finish(shop, hub, before)
    await forget(shop, broker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_next_start_on_rabbitmq_is_a_run_of_its_own(tmp_path: Path, broker: BrokerNode, number: signal.Signals) -> None:
    """The journal outlives the fleet there; whether that was stopped in order or died with its supervisor, the next
    `fabric up` starts every service once, and concludes with its own run."""
    shop = Shop(tmp_path, broker.url)
    (tmp_path / "hold-mail").unlink()
    ids = set()
    try:
        for count in (1, 2):
            up = shop.run("up", "fleet.yaml")
            await shop.until(partial(shop.started, "web", count), f"start {count} did not come")
            assert shop.record is not None
            async with Hub.connect("test", url=broker.url, settings=Settings(namespace=shop.namespace, broker_url=None)) as hub:
                status = await shop.status(hub, lambda status: status.state.is_settled, f"run {count} did not end")
            assert status.state is RunState.UP
            ids.add(status.run)
            assert up.poll() is None
            processes = tuple(shop.record.processes.values())
            up.send_signal(number)
            up.wait(60)
            await shop.until(partial(all_ended, processes), "something was left", alive=False)
        assert len(ids) == 2
        assert shop.lines("starts") == {"store": 2, "mail": 2, "web": 2}
    finally:
        shop.end()
        await forget(shop, broker)


def all_ended(processes: Iterable[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in processes)


async def forget(shop: Shop, broker: BrokerNode) -> None:
    connection = await aiormq.connect(broker.url)
    channel = await connection.channel()
    await channel.queue_delete(f"{shop.namespace}.journal")
    await connection.close()
