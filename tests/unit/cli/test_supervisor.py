"""The supervisor, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from fabric.cli.guard import MARK, marked
from fabric.cli.process import NEVER, ProcessEnd, ProcessSpec, ProcessState, Restart
from fabric.cli.supervisor import Supervisor

pytestmark = pytest.mark.processes

SLEEP = "import time; print('up', flush=True); time.sleep(300)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
LISTENS = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
os.read(int(os.environ['FABRIC_LIFELINE_FD']), 1)
print('let go', flush=True)
"""


def python(name: str, code: str, *, restart: Restart = NEVER, env: dict[str, str] | None = None) -> ProcessSpec:
    return ProcessSpec(name=name, service=name, argv=(sys.executable, "-c", code), restart=restart, env=env or {})


async def until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def ends() -> list[ProcessEnd]:
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, ends: list[ProcessEnd]) -> AsyncIterator[Supervisor]:
    async with Supervisor(log_dir=tmp_path / "logs", on_end=ends.append, grace=5.0) as supervisor:
        yield supervisor


async def test_output_goes_to_a_log_of_its_own_with_a_bounded_tail(
    supervisor: Supervisor, ends: list[ProcessEnd], tmp_path: Path
) -> None:
    """Both streams of a process are in its log, and the report of its end has the last lines only."""
    await supervisor.start(python("talker", "import sys\nfor i in range(5000): print('line', i)\nsys.exit('the reason')"))
    await until(lambda: ends)
    assert (tmp_path / "logs" / "talker.log").read_text().count("\n") == 5001
    assert ends[0].code == 1
    assert ends[0].log[-1] == "the reason"
    assert len(ends[0].log) == 40
    assert ends[0].restarting_in is None


async def test_the_log_of_the_run_before_is_kept(supervisor: Supervisor, ends: list[ProcessEnd], tmp_path: Path) -> None:
    """A new start keeps the former log beside the new one."""
    for number in (1, 2):
        await supervisor.start(python("talker", f"print('start {number}')"))
        await until(lambda: len(ends) == number)  # noqa: B023
    assert (tmp_path / "logs" / "talker.log").read_text() == "start 2\n"
    assert (tmp_path / "logs" / "talker.log.1").read_text() == "start 1\n"


async def test_a_program_that_is_not_there_is_reported(supervisor: Supervisor, ends: list[ProcessEnd]) -> None:
    """A program that can't be started ends with code 127 and a reason, and is not an exception in the supervisor."""
    pid = await supervisor.start(ProcessSpec(name="ghost", service="ghost", argv=("/no/such/program",)))
    await until(lambda: ends)
    assert pid == 0
    assert ends[0].code == 127
    assert "/no/such/program" in ends[0].log[-1]


async def test_stop_ends_the_whole_group(supervisor: Supervisor, ends: list[ProcessEnd]) -> None:
    """What a process started itself ends with it, and an end that was asked for is not reported as a failure."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
    pid = await supervisor.start(python("parent", code))
    await until(lambda: supervisor.tail("parent") == ("up",))
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert len(family) == 2
    await supervisor.stop("parent")
    assert not any(alive(member) for member in family)
    assert ends == []


async def test_a_child_that_left_the_group_ends_too(supervisor: Supervisor) -> None:
    """A child in a session of its own is found by its mark when its parent is stopped."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"
    pid = await supervisor.start(python("parent", code))
    await until(lambda: supervisor.tail("parent") == ("up",))
    (child,) = psutil.Process(pid).children()
    await supervisor.stop("parent")
    assert not alive(child.pid)


async def test_one_that_ignores_sigterm_is_killed_after_the_grace(supervisor: Supervisor) -> None:
    """SIGKILL follows when the grace has passed."""
    pid = await supervisor.start(python("deaf", DEAF))
    await until(lambda: supervisor.tail("deaf") == ("deaf",))
    await supervisor.stop("deaf", grace=0.2)
    assert not alive(pid)


async def test_hurry_cuts_the_grace(supervisor: Supervisor) -> None:
    """A second Ctrl-C need not wait: with hurry a long grace ends at once."""
    pid = await supervisor.start(python("deaf", DEAF))
    await until(lambda: supervisor.tail("deaf") == ("deaf",))
    stopping = asyncio.create_task(supervisor.stop("deaf", grace=100.0))
    await asyncio.sleep(0)
    supervisor.hurry()
    async with asyncio.timeout(20):
        await stopping
    assert not alive(pid)


async def test_a_failed_process_is_started_again(supervisor: Supervisor, ends: list[ProcessEnd]) -> None:
    """One that was up and is killed comes back under the same name, with a pause that is reported."""
    first = await supervisor.start(python("worker", SLEEP, restart=Restart(delay=0.01)))
    supervisor.mark_up("worker")
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.view()[0].pid not in (0, first) and supervisor.view()[0].state is ProcessState.RUNNING)
    assert ends[0].code == -signal.SIGKILL
    assert ends[0].restarting_in == 0.01


async def test_before_it_was_up_the_starts_are_counted(supervisor: Supervisor, ends: list[ProcessEnd]) -> None:
    """One that never comes up is started as often as its attempts say and then left, with the last end saying so."""
    await supervisor.start(python("broken", "raise SystemExit(3)", restart=Restart(attempts=3, delay=0.01)))
    await until(lambda: supervisor.view()[0].state is ProcessState.ENDED)
    assert [end.restarting_in is None for end in ends] == [False, False, True]


@pytest.mark.parametrize("code", [0, 2])
async def test_success_and_misconfiguration_are_not_started_again(
    supervisor: Supervisor, ends: list[ProcessEnd], code: int
) -> None:
    """An exit of 0 is an end that was meant, and one of 2 would only repeat itself."""
    await supervisor.start(python("one", f"raise SystemExit({code})", restart=Restart(attempts=5)))
    await until(lambda: ends)
    assert ends[0].restarting_in is None


async def test_one_that_keeps_falling_over_is_started_ever_more_slowly(tmp_path: Path) -> None:
    """Pauses grow also for one that was up, until it has lasted; each start is told."""
    ends: list[ProcessEnd] = []
    starts: list[None] = []
    async with Supervisor(log_dir=tmp_path, on_start=lambda: starts.append(None), on_end=ends.append) as supervisor:
        await supervisor.start(python("flapping", "raise SystemExit(1)", restart=Restart(delay=0.01, factor=3.0)))
        supervisor.mark_up("flapping")
        await until(lambda: len(ends) >= 3)
        assert [end.restarting_in for end in ends[:3]] == pytest.approx([0.01, 0.03, 0.09])
        assert len(starts) >= 3


async def test_one_that_lasted_counts_anew(tmp_path: Path) -> None:
    """After it has run for reset_after its next failure is its first again."""
    ends: list[ProcessEnd] = []
    restart = Restart(delay=0.01, factor=3.0, reset_after=0.0)
    async with Supervisor(log_dir=tmp_path, on_end=ends.append) as supervisor:
        await supervisor.start(python("flapping", "raise SystemExit(1)", restart=restart))
        supervisor.mark_up("flapping")
        await until(lambda: len(ends) >= 3)
        assert [end.restarting_in for end in ends[:3]] == [0.01, 0.01, 0.01]


def test_pauses_grow_to_their_bound() -> None:
    """The pause grows by its factor and never passes its bound, however many failures there were."""
    restart = Restart(attempts=2, delay=1.0, factor=2.0, max_delay=5.0)
    assert [restart.pause(code=1, failures=n, was_up=True) for n in (1, 2, 3, 4, 10_000)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert restart.pause(code=1, failures=2, was_up=False) is None
    assert NEVER.pause(code=1, failures=1, was_up=True) is None


async def test_stopping_while_waiting_to_restart_is_immediate(supervisor: Supervisor, ends: list[ProcessEnd]) -> None:
    """A process that waits for its next start is stopped without waiting for it."""
    await supervisor.start(python("flapping", "raise SystemExit(1)", restart=Restart(attempts=9, delay=100, max_delay=100)))
    await until(lambda: ends)
    async with asyncio.timeout(20):
        await supervisor.stop("flapping")
    assert supervisor.view()[0].state is ProcessState.ENDED


async def test_a_name_runs_once(supervisor: Supervisor) -> None:
    """A second process of the same name is refused while the first runs."""
    await supervisor.start(python("one", SLEEP))
    with pytest.raises(ValueError, match="already running"):
        await supervisor.start(python("one", SLEEP))


async def test_closing_ends_all_and_tells_those_that_listen(tmp_path: Path) -> None:
    """Nothing carries the supervisor's mark after it is closed, the guard included, and closing twice is harmless."""
    async with Supervisor(log_dir=tmp_path) as supervisor:
        pids = [await supervisor.start(python(name, SLEEP)) for name in ("a", "b", "c")]
        mark = psutil.Process(pids[0]).environ()[MARK].split("/")[0]
        family = [pid for pid in (child.pid for child in psutil.Process().children()) if pid not in pids]
    await supervisor.aclose()
    assert marked(mark) == []
    assert not any(alive(pid) for pid in [*pids, *family])


OWNER = """
import asyncio, pathlib, sys
from fabric.cli.process import ProcessSpec
from fabric.cli.supervisor import Supervisor

async def main():
    async with Supervisor(log_dir=pathlib.Path(sys.argv[1]), grace=0.5) as supervisor:
        for name, code in zip(("listens", "deaf", "family"), sys.argv[2:]):
            await supervisor.start(ProcessSpec(name=name, service=name, argv=(sys.executable, "-c", code)))
        print("started", flush=True)
        await asyncio.sleep(300)

asyncio.run(main())
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path, blow: signal.Signals) -> None:
    """Kill -9 of the supervisor ends those that read the lifeline by themselves, and the deaf ones and their children too."""
    family = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DEAF!r}], start_new_session=True)"
    owner = subprocess.Popen(  # noqa: ASYNC220 - read line by line, outside of the loop's watcher
        [sys.executable, "-c", OWNER, str(tmp_path), LISTENS, DEAF, family], stdout=subprocess.PIPE, start_new_session=True
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        assert owner.stdout.readline() == b"started\n"
        await until(lambda: (tmp_path / "family.log").read_text() == "deaf\n" and (tmp_path / "listens.log").read_text())
        everyone = psutil.Process(owner.pid).children(recursive=True)
        assert len(everyone) == 5  # three processes, the guard, the child of one
        owner.send_signal(blow)
        await until(lambda: not any(alive(process.pid) for process in everyone))
    assert (tmp_path / "listens.log").read_text() == "up\nlet go\n"
