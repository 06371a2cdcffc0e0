"""Processes that a fork server makes, beside those that are started afresh."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fabric.cli.fork_server import EXIT_UNSEEN, ForkServerSpec
from fabric.cli.guard import MARK, marked
from fabric.cli.process import FABRIC, NEVER, ProcessEnd, ProcessSpec, ProcessState, Restart
from fabric.cli.supervisor import Supervisor

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="there is no fork server here")]

FACTS = """
import json, os, random, signal, sys, threading, uuid
from fabric.wire.message import MessageIds

print(json.dumps({
    "environment": {name: value for name, value in os.environ.items() if name not in ("FABRIC_SUPERVISOR", "FABRIC_LIFELINE_FD")},
    "mark": os.environ["FABRIC_SUPERVISOR"].partition("/")[2],
    "directory": os.getcwd(),
    "arguments": sys.argv[1:],
    "path": sys.path,
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
    "input": os.readlink("/proc/self/fd/0"),
    "descriptors": len([d for d in os.listdir("/proc/self/fd") if int(d) > 2]) - 1,  # one looks
    "lifeline": os.readlink(f"/proc/self/fd/{os.environ['FABRIC_LIFELINE_FD']}").partition(":")[0],
    "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
    "wakes": signal.set_wakeup_fd(-1),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "threads": threading.active_count(),
    "umask": os.umask(0o077),
    "buffered": sys.stdout.line_buffering or sys.stdout.write_through,
}))
print(json.dumps([random.random(), str(uuid.uuid4()), MessageIds().next(), os.urandom(8).hex()]))
sys.exit(7)
"""
SLEEP = "import time; print('up', flush=True); time.sleep(300)"
MULTIPLIES = """
import os, time
if os.fork():
    print("parent", flush=True)
    time.sleep(300)
os.setsid()
print("child", flush=True)
time.sleep(300)
"""


async def until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def forker() -> psutil.Process:
    """The fork server of this process, when it has loaded."""
    (found,) = (process for process in psutil.Process().children() if "fork-server" in "".join(process.cmdline()))
    return found


class Scene:
    """A supervisor and what it told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ends: list[ProcessEnd] = []
        self.notes: list[str] = []

    @asynccontextmanager
    async def supervised(
        self, *modules: str, fork: bool = True, environment: dict[str, str] | None = None
    ) -> AsyncIterator[Supervisor]:
        async with Supervisor(
            log_dir=self.root / "logs",
            on_end=self.ends.append,
            on_note=self.notes.append,
            grace=5.0,
            fork=ForkServerSpec(cwd=self.root, modules=modules, environment=environment or {}) if fork else None,
        ) as supervisor:
            yield supervisor

    def spec(self, name: str, code: str, *, restart: Restart = NEVER, env: dict[str, str] | None = None) -> ProcessSpec:
        """A process of Fabric's own, whose service does what ``code`` says when it is imported."""
        (self.root / f"{name}.py").write_text(code)
        return ProcessSpec(
            name=f"{name}-1", service=name, argv=(*FABRIC, "run", f"{name}:It"), env=env or {}, cwd=self.root, restart=restart
        )

    def said(self, name: str) -> list[str]:
        path = self.root / "logs" / f"{name}-1.log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def facts(scene: Scene, **options: Any) -> list[Any]:
    async with scene.supervised(**options) as supervisor:
        await supervisor.start(scene.spec("facts", FACTS, env={"COLOUR": "blue", "FABRIC_INSTANCE": "facts-1"}))
        await until(lambda: scene.ends)
        assert scene.ends.pop().code == 7
        return [json.loads(line) for line in scene.said("facts")]


async def test_a_forked_process_is_like_one_that_is_started_afresh(scene: Scene) -> None:
    """Environment, directory, arguments, module path, session, descriptors, signals, streams and exit code are the same."""
    forked, random = await facts(scene)
    afresh, other = await facts(scene, fork=False)
    assert forked == afresh
    assert forked["environment"]["COLOUR"] == "blue"
    assert (forked["mark"], forked["leads"], forked["descriptors"], forked["lifeline"]) == ("facts-1", True, 1, "pipe")
    assert not set(random) & set(other)


async def test_no_two_have_the_same_random_numbers(scene: Scene) -> None:
    """Random numbers, UUIDs and message ids of processes of one fork server differ."""
    async with scene.supervised() as supervisor:
        for name in ("one", "two", "three"):
            await supervisor.start(scene.spec(name, FACTS))
        await until(lambda: len(scene.ends) == 3)
    found = [value for name in ("one", "two", "three") for value in json.loads(scene.said(name)[1])]
    assert len(set(found)) == 12


async def test_one_has_its_own_name_and_mark(scene: Scene) -> None:
    """`ps` shows what a process is, and the guard finds it by its own mark, as it does one that is started afresh."""
    async with scene.supervised() as supervisor:
        pid = await supervisor.start(scene.spec("sleeper", SLEEP))
        await until(lambda: scene.said("sleeper"))
        assert " ".join(psutil.Process(pid).cmdline()) == "fabric run sleeper:It"
        assert " ".join(forker().cmdline()) == "fabric fork-server"
        assert psutil.Process(pid).ppid() == forker().pid
        token = psutil.Process(pid).environ()[MARK].partition("/")[0]
        assert [process.pid for process in marked(f"{token}/sleeper-1")] == [pid]
    assert marked(token) == []


async def test_ends_are_told_and_failures_are_started_again(scene: Scene) -> None:
    """A signal is an exit code below zero, and the successor comes from the fork server too."""
    async with scene.supervised() as supervisor:
        first = await supervisor.start(scene.spec("sleeper", SLEEP, restart=Restart(delay=0.01)))
        supervisor.mark_up("sleeper-1")
        os.kill(first, signal.SIGSEGV)
        await until(lambda: supervisor.view()[0].pid != first and supervisor.view()[0].state is ProcessState.RUNNING)
        second = supervisor.view()[0].pid
        assert psutil.Process(second).ppid() == forker().pid
        await supervisor.stop("sleeper-1")
        assert not alive(second)
    assert [(end.pid, end.code) for end in scene.ends] == [(first, -signal.SIGSEGV)]


async def test_what_it_forked_itself_does_not_outlive_it(scene: Scene) -> None:
    """A child without a program of its own, in a session of its own, ends when its parent crashes."""
    async with scene.supervised() as supervisor:
        pid = await supervisor.start(scene.spec("family", MULTIPLIES))
        await until(lambda: sorted(scene.said("family")) == ["child", "parent"])
        (child,) = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: scene.ends)
        assert not alive(child.pid)


async def test_a_directory_that_is_not_there_is_reported(scene: Scene) -> None:
    """The process ends with code 127 and the reason, as one that can't be started afresh does."""
    async with scene.supervised() as supervisor:
        await supervisor.start(ProcessSpec(name="lost", service="lost", argv=(*FABRIC, "version"), cwd=scene.root / "nowhere"))
        await until(lambda: scene.ends)
    assert scene.ends[0].code == 127
    assert "nowhere" in scene.ends[0].log[-1]


async def test_it_survives_the_fork_server(scene: Scene) -> None:
    """Kill -9 of the fork server is told, ends nothing, and what is started next is started afresh; ends are still seen."""
    async with scene.supervised() as supervisor:
        kept = await supervisor.start(scene.spec("kept", SLEEP))
        lost = await supervisor.start(scene.spec("lost", SLEEP, restart=Restart(delay=0.01)))
        supervisor.mark_up("lost-1")
        await until(lambda: scene.said("kept") and scene.said("lost"))
        forker().kill()
        await until(lambda: scene.notes)
        assert scene.notes == [
            "the fork server was killed by SIGKILL; from now on processes load Fabric one by one, which takes longer"
        ]
        os.kill(lost, signal.SIGKILL)
        await until(lambda: scene.said("lost") == ["up", "up"])
        successor = supervisor.view()[1].pid
        assert psutil.Process(successor).ppid() == os.getpid()
        assert alive(kept)
        await supervisor.stop("kept-1", "lost-1")
        assert not alive(kept)
    assert [(end.pid, end.code) for end in scene.ends] == [(lost, EXIT_UNSEEN)]


async def test_one_that_was_being_made_is_made_once(scene: Scene) -> None:
    """Kill -9 of the fork server while it has an order: the process is started afresh, and there is one of it."""
    async with scene.supervised() as supervisor:
        pid = await supervisor.start(scene.spec("first", SLEEP))
        token = psutil.Process(pid).environ()[MARK].partition("/")[0]
        forker().suspend()
        starting = asyncio.create_task(supervisor.start(scene.spec("second", SLEEP)))
        await asyncio.sleep(0)
        forker().kill()
        second = await starting
        await until(lambda: scene.said("second"))
        assert [process.pid for process in marked(f"{token}/second-1")] == [second]


async def test_what_the_interpreter_reads_at_its_start_needs_a_start(scene: Scene) -> None:
    """A process with another PYTHON… or locale variable than the fork server is started afresh, silently."""
    async with scene.supervised() as supervisor:
        pid = await supervisor.start(scene.spec("sleeper", SLEEP, env={"PYTHONHASHSEED": "1"}))
        await until(lambda: scene.said("sleeper"))
        assert psutil.Process(pid).ppid() == os.getpid()
        program = ProcessSpec(name="other", service="other", argv=(sys.executable, "-c", SLEEP))
        assert psutil.Process(await supervisor.start(program)).ppid() == os.getpid()
    assert scene.notes == []


LOADED = "import os; OWNER = os.getpid(); print('loaded', flush=True)"
USES = "import loaded, os; print(loaded.OWNER == os.getppid(), flush=True); raise SystemExit(0)"


async def test_modules_are_loaded_in_advance(scene: Scene) -> None:
    """A module that is to be loaded in advance is loaded once, in the fork server, and one that fails there stops nothing."""
    (scene.root / "loaded.py").write_text(LOADED)
    async with scene.supervised("loaded", "absent") as supervisor:
        for name in ("one", "two"):
            await supervisor.start(scene.spec(name, USES))
        await until(lambda: len(scene.ends) == 2)
    assert scene.said("one") == scene.said("two") == ["True"]
    log = (scene.root / "logs" / "fork-server.log").read_text().splitlines()
    assert log[0] == "loaded"
    assert "No module named 'absent'" in log[1]
    assert len(log) == 2


async def test_threads_can_not_be_forked(scene: Scene) -> None:
    """Modules that start threads when they are imported are refused with the reason, and processes are started afresh."""
    (scene.root / "loaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    async with scene.supervised("loaded") as supervisor:
        pid = await supervisor.start(scene.spec("sleeper", SLEEP))
        assert psutil.Process(pid).ppid() == os.getpid()
    assert len(scene.notes) == 1
    assert "the fork server ended with exit code 127" in scene.notes[0]
    assert "started threads (1)" in (scene.root / "logs" / "fork-server.log").read_text()


async def test_what_is_loaded_can_be_loaded_anew(scene: Scene) -> None:
    """After load_anew processes come from another fork server with the code of then; those of the first go on and are heard of,
    and the first goes when it has none left."""
    (scene.root / "loaded.py").write_text("OWNER = 'old'")
    uses = "import loaded, time; print(loaded.OWNER, flush=True); time.sleep(300)"
    async with scene.supervised("loaded") as supervisor:
        first = await supervisor.start(scene.spec("first", uses))
        before = forker()
        (scene.root / "loaded.py").write_text("OWNER = 'renewed'")
        await supervisor.load_anew()
        second = await supervisor.start(scene.spec("second", uses))
        await until(lambda: scene.said("first") == ["old"] and scene.said("second") == ["renewed"])
        assert psutil.Process(first).ppid() == before.pid
        assert psutil.Process(second).ppid() != before.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: scene.ends)
        assert (scene.ends[0].pid, scene.ends[0].code) == (first, -signal.SIGKILL)
        await supervisor.load_anew()
        assert not alive(before.pid)
        assert alive(second)
    assert scene.notes == []


OWNER = """
import asyncio, pathlib, sys
from fabric.cli.fork_server import ForkServerSpec
from fabric.cli.process import FABRIC, ProcessSpec
from fabric.cli.supervisor import Supervisor

async def main():
    root = pathlib.Path(sys.argv[1])
    async with Supervisor(log_dir=root / "logs", grace=0.5, fork=ForkServerSpec(cwd=root)) as supervisor:
        for name in sys.argv[2:]:
            await supervisor.start(ProcessSpec(name=f"{name}-1", service=name, argv=(*FABRIC, "run", f"{name}:It"), cwd=root))
        print("started", flush=True)
        await asyncio.sleep(300)

asyncio.run(main())
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_is_left_when_the_supervisor_is_killed(scene: Scene, blow: signal.Signals) -> None:
    """Kill -9 of the supervisor ends the fork server and what it made, the deaf ones and their children too."""
    scene.spec("deaf", DEAF)
    scene.spec("family", MULTIPLIES)
    owner = subprocess.Popen(  # noqa: ASYNC220 - read line by line, outside of the loop's watcher
        [sys.executable, "-c", OWNER, str(scene.root), "deaf", "family"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        assert owner.stdout.readline() == b"started\n"
        await until(lambda: scene.said("deaf") and len(scene.said("family")) == 2)
        everyone = psutil.Process(owner.pid).children(recursive=True)
        assert len(everyone) == 5  # the guard, the fork server, two processes, the child of one
        owner.send_signal(blow)
        await until(lambda: not any(alive(process.pid) for process in everyone))
