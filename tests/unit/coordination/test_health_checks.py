"""Each kind of health check against real sockets and processes, and the votes that come of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fabric import Health, Service, rpc
from fabric.clock import SystemClock, VirtualClock
from fabric.coordination.agent import Agent, AgentPolicy
from fabric.coordination.health_checks import HealthChecks, dump_checks, load_checks
from fabric.coordination.host import checks_of_environment
from fabric.errors import ConfigurationError
from fabric.health import HealthStatus
from fabric.routing.instance import InstanceState
from fabric.startup.definition import CheckKind, HealthCheck
from fabric.testing import Bench

YES, NO, UNKNOWN = HealthStatus.YES, HealthStatus.NO, HealthStatus.UNKNOWN


class Kettle(Service):
    name = "kettle"

    def __init__(self) -> None:
        self.health = Health.ok()
        self.asked = 0

    async def check_health(self) -> Health:
        self.asked += 1
        return self.health

    @rpc(idempotent=True)
    async def boil(self) -> str:
        if not self.health.is_ok:
            raise RuntimeError("no water")
        return "hot"


class Tray(Service):
    name = "tray"


@asynccontextmanager
async def answering(answer: bytes | None, port: int = 0) -> AsyncIterator[int]:
    """A server that says ``answer`` to whatever it hears, or nothing for None. Yields its port."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def free_port() -> int:
    async with answering(b"") as port:
        return port


def check(kind: CheckKind, target: str = "", **more: object) -> HealthCheck:
    return HealthCheck(kind=kind, target=target, **{"timeout": 5.0, **more})  # type: ignore[arg-type]


async def ask(*checks: HealthCheck, service: Service | None = None) -> Health:
    return await HealthChecks(checks, service or Kettle(), SystemClock()).ask()


@pytest.mark.parametrize(
    ("answer", "expect", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "", YES, ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", "", YES, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "", NO, "it answered 503 Service Unavailable"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "204", NO, "it answered 200 OK"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "404", YES, ""),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "", NO, "it does not speak HTTP"),
        (b"", "", NO, "it closed the connection without an answer"),
    ],
)
async def test_http(answer: bytes, expect: str, status: HealthStatus, reason: str) -> None:
    """One GET; any success or redirect is a yes, unless one status is expected; what else came is in the reason."""
    async with answering(answer) as port:
        health = await ask(check(CheckKind.HTTP, f"http://127.0.0.1:{port}/health?deep=1", expect=expect))
    assert health.status is status
    assert health.reason == (f"the http check of http://127.0.0.1:{port}/health?deep=1: {reason}" if reason else "")


async def test_nobody_listens() -> None:
    """A refused connection is a no, for HTTP and TCP, with what the system said."""
    port = await free_port()
    for kind, target in ((CheckKind.HTTP, f"http://127.0.0.1:{port}/"), (CheckKind.TCP, f"127.0.0.1:{port}")):
        health = await ask(check(kind, target))
        assert health.status is NO
        assert health.reason.startswith(f"the {kind} check of {target}: ")
        assert "refused" in health.reason or "Connect call failed" in health.reason


async def test_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accepted connection is a yes. Instances on one machine tell their ports apart by their environment."""
    async with answering(b"") as port:
        monkeypatch.setenv("KETTLE_PORT", str(port))
        assert (await ask(check(CheckKind.TCP, "127.0.0.1:$KETTLE_PORT"))).is_ok


async def test_no_answer_in_time_is_unknown() -> None:
    """Whoever is silent may be well or not."""
    async with answering(None) as port:
        health = await ask(check(CheckKind.HTTP, f"http://127.0.0.1:{port}/", timeout=0.1))
    assert (health.status, health.reason) == (UNKNOWN, f"the http check of http://127.0.0.1:{port}/ took longer than 0.1 s")


async def test_command() -> None:
    """Exit code 0 is a yes; of another one the code and the last line are told, and of the command line its first word only."""
    assert (await ask(check(CheckKind.COMMAND, "echo fine && exit 0"))).is_ok
    health = await ask(check(CheckKind.COMMAND, "psql --password=hidden; echo first; echo disk full >&2; exit 3"))
    assert (health.status, health.reason) == (NO, "the check by psql: exit code 3: disk full")


async def test_a_command_that_hangs_leaves_nothing_behind(tmp_path: Path) -> None:
    """When its time is up it is killed, with what it started."""
    line = f"sleep 300 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/shell; wait"
    health = await ask(check(CheckKind.COMMAND, line, timeout=0.5))
    assert (health.status, health.reason) == (UNKNOWN, "the check by sleep took longer than 0.5 s")
    for name in ("child", "shell"):
        pid = int((tmp_path / name).read_text())
        async with asyncio.timeout(5):
            while _runs(pid):
                await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_dependency() -> None:
    """A call of a method without arguments, or an instance that is ready; what the call met is the reason."""
    kettle, tray = Kettle(), Tray()
    async with Bench(policy=AgentPolicy(check_interval=0.05)) as bench:
        await bench.start(tray)
        missing = await ask(check(CheckKind.DEPENDENCY, "kettle", timeout=0.5), service=tray)
        assert (missing.status, missing.reason) == (NO, "the dependency check of kettle: it has no instance")
        agent = await bench.start(kettle)
        for target in ("kettle", "kettle.boil"):
            assert (await ask(check(CheckKind.DEPENDENCY, target), service=tray)).is_ok
        kettle.health = Health.bad("cold")
        raised = await ask(check(CheckKind.DEPENDENCY, "kettle.boil"), service=tray)
        assert raised.status is NO
        assert "RuntimeError: no water" in raised.reason
        async with asyncio.timeout(10):
            while agent.health.is_ok or (await ask(check(CheckKind.DEPENDENCY, "kettle"), service=tray)).is_ok:
                await asyncio.sleep(0.02)


async def test_all_checks_have_to_say_yes_and_a_no_goes_before_an_unknown() -> None:
    """What people should mend first is the reason."""
    kettle = Kettle()
    slow = check(CheckKind.COMMAND, "sleep 300", timeout=0.1)
    broken = check(CheckKind.COMMAND, "exit 1")
    assert (await ask(check(CheckKind.METHOD), broken, slow, service=kettle)).reason == "the check by exit: exit code 1"
    assert (await ask(check(CheckKind.METHOD), slow, service=kettle)).status is UNKNOWN
    assert (await ask()).is_ok
    kettle.health = Health.bad("cold")
    assert (await ask(slow, check(CheckKind.METHOD), service=kettle)).reason == "cold"


async def test_a_yes_is_good_for_its_interval() -> None:
    """A check that said yes is asked again after its own interval, one that did not each time, and all when that is wanted."""
    clock, kettle = VirtualClock(), Kettle()
    checks = HealthChecks([check(CheckKind.METHOD, interval=10.0)], kettle, clock)
    assert checks.due_in == 0.0
    for _ in range(3):
        assert (await checks.ask()).is_ok
    assert (kettle.asked, checks.due_in) == (1, 10.0)
    await checks.ask(anew=True)
    assert kettle.asked == 2
    await clock.advance(10.0)
    kettle.health = Health.bad("cold")
    for _ in range(2):
        assert not (await checks.ask()).is_ok
    assert kettle.asked == 4


async def test_the_agent_votes_by_its_checks() -> None:
    """A service whose own check says yes is not ready before its port is open, and no more when it is closed again."""
    port = await free_port()
    policy = AgentPolicy(first_check=0.01, check_interval=0.1, check_timeout=1.0, vote_valid_for=2.0)
    checks = [check(CheckKind.METHOD, interval=0.1), check(CheckKind.TCP, f"127.0.0.1:{port}", interval=0.1)]
    async with Bench() as bench:
        agent = Agent(await bench.hub("kettle"), Kettle(), policy, checks=checks)
        try:
            await agent.open(managed=False)
            await until(lambda: "tcp check" in agent.health.reason)
            assert agent.state is not InstanceState.RUNNING
            async with answering(b"", port):
                await agent.wait_state(InstanceState.RUNNING, timeout=10)
            await until(lambda: agent.health.status is NO)
        finally:
            await agent.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_checks_travel_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process gets the checks of the fleet file as they are; without any it has its own; what is wrong is refused."""
    checks = (check(CheckKind.METHOD), check(CheckKind.HTTP, "http://x/", interval=3.0, expect="204"))
    assert load_checks(dump_checks(checks)) == checks
    monkeypatch.delenv("FABRIC_HEALTH_CHECKS", raising=False)
    assert checks_of_environment() is None
    monkeypatch.setitem(os.environ, "FABRIC_HEALTH_CHECKS", "[]")
    assert checks_of_environment() == ()
    for wrong in ("nonsense", "{}x", '[{"kind": "smell"}]', '[{"target": "x"}]', '[{"kind": "tcp", "port": 1}]', "[1]"):
        monkeypatch.setitem(os.environ, "FABRIC_HEALTH_CHECKS", wrong)
        with pytest.raises(ConfigurationError, match="FABRIC_HEALTH_CHECKS is not a JSON list"):
            checks_of_environment()
