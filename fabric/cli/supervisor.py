"""Starts processes, sees them end, starts them again where that is wanted, and leaves none behind.

Three things end a process: ``stop`` (SIGTERM, grace, SIGKILL), the lifeline (a pipe whose other end only the supervisor
holds: services read ``FABRIC_LIFELINE_FD`` and leave when it closes), and the guard (see ``guard.py``) for those that do
not listen. The last two hold even when the supervisor itself is killed with -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fabric.cli import fork_server, guard
from fabric.cli.fork_server import ForkServer, ForkServerLost, ForkServerSpec
from fabric.cli.logfile import rotate, tail
from fabric.cli.process import Process, ProcessEnd, ProcessSpec, ProcessView, Running, start_program
from fabric.clock import Clock, SystemClock


class Supervisor:
    """Owns processes from their start to their end.

    Args:
        log_dir: one ``NAME.log`` a process; made if missing.
        on_start: called in the event loop when a process was started, or started again. Must not block or raise.
        on_end: the same when one ended without being told to.
        on_note: called with what people should know besides.
        grace: seconds between SIGTERM and SIGKILL. Longer lets them finish their work, shorter ends sooner.
        fork: makes processes of Fabric's own by a fork server where the system can; None starts each afresh.
    """

    def __init__(
        self,
        *,
        log_dir: Path,
        on_start: Callable[[], None] = lambda: None,
        on_end: Callable[[ProcessEnd], None] = lambda end: None,
        on_note: Callable[[str], None] = lambda text: None,
        grace: float = 10.0,
        fork: ForkServerSpec | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._log_dir, self._on_start, self._on_end, self.grace = log_dir, on_start, on_end, grace
        self._on_note, self._fork = on_note, fork
        self._clock: Clock = clock or SystemClock()
        self._token = secrets.token_hex(8)
        self._processes: dict[str, Process] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._guard: asyncio.subprocess.Process | None = None
        self._fork_server: ForkServer | None = None
        self._retired: list[ForkServer] = []
        self._lifeline: tuple[int, int] | None = None
        self._hurry = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lifeline = os.pipe()
        if self._fork is not None and ForkServer.is_possible():
            rotate(self._log_dir / f"{fork_server.NAME}.log")
            self._fork_server = await self._open_fork_server(self._fork)
        self._guard = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            guard.__file__,
            self._token,
            str(self.grace),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != guard.MARK},
            start_new_session=True,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def start(self, spec: ProcessSpec) -> int:
        """Start a process, in its own session.

        Returns:
            Its process id, 0 when it could not be started; ``on_end`` has the reason.

        Raises:
            ValueError: one of this name runs.
            RuntimeError: the supervisor is closed.
        """
        if self._lifeline is None:
            raise RuntimeError("the supervisor is not open")
        if spec.name in self._tasks and not self._tasks[spec.name].done():
            raise ValueError(f"a process {spec.name!r} is already running; stop it first")
        log = self._log_dir / f"{spec.name}.log"
        rotate(log)
        lifeline, _ = self._lifeline
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **spec.env,
            "FABRIC_LIFELINE_FD": str(lifeline),
            guard.MARK: f"{self._token}/{spec.name}",
        }
        process = Process(spec, log, environment, self._start, self._clock)
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._processes[spec.name] = process

        def begun() -> None:
            if not started.done():
                started.set_result(None)
            self._on_start()

        task = asyncio.create_task(process.run(begun, self._on_end), name=f"process {spec.name}")
        self._tasks[spec.name] = task
        await asyncio.wait({started, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return process.pid

    async def _start(self, spec: ProcessSpec, environment: Mapping[str, str], log: Path) -> Running:
        if self._fork_server is not None and self._fork_server.makes(spec.argv, environment):
            try:
                return await self._fork_server.make(spec.argv, environment, cwd=spec.cwd or Path.cwd(), log=log)
            except ForkServerLost:  # perhaps it had made it; then that one must not meet the one that is started now
                await asyncio.to_thread(guard.sweep, environment[guard.MARK], grace=0.0)
        assert self._lifeline is not None
        return await start_program(spec, environment, log, lifeline=self._lifeline[0])

    async def _open_fork_server(self, spec: ForkServerSpec) -> ForkServer:
        assert self._lifeline is not None
        log = self._log_dir / f"{fork_server.NAME}.log"
        return await ForkServer(spec, token=self._token, lifeline=self._lifeline[0], log=log, lost=self._on_note).open()

    async def load_anew(self) -> None:
        """What is started from now on has the code of now. The fork server of before stays until all that it made has ended."""
        if self._fork is None or not self.forks:
            return
        assert self._fork_server is not None
        self._retired.append(self._fork_server)
        self._fork_server = await self._open_fork_server(self._fork)
        for old in tuple(self._retired):
            if not old.has_children:
                self._retired.remove(old)
                await old.aclose()

    @property
    def forks(self) -> bool:
        """Whether processes of Fabric's own are made by the fork server now."""
        return self._fork_server is not None and self._fork_server.is_there

    def mark_up(self, name: str) -> None:
        """It has been up: from now on its restarts are not counted as attempts to start."""
        if process := self._processes.get(name):
            process.was_up = True

    async def stop(self, *names: str, grace: float | None = None) -> None:
        """End processes, all at once: SIGTERM, ``grace`` seconds, SIGKILL to their groups.

        Idempotent; names that are not known have ended already.
        """
        stopping = {name: self._processes[name] for name in names if name in self._processes}
        tasks = [self._tasks[name] for name in stopping]
        if not tasks:
            return
        for process in stopping.values():
            process.stopping.set()
            process.signal(signal.SIGTERM)
        ended: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
        hurry: asyncio.Future[Any] = asyncio.create_task(self._hurry.wait())
        try:
            limit = self.grace if grace is None else grace
            await asyncio.wait({ended, hurry}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for process in stopping.values():
                process.signal(signal.SIGKILL)
            await asyncio.wait({ended}, timeout=5.0)
        finally:
            hurry.cancel()

    def hurry(self) -> None:
        """From now on ``stop`` gives no grace: whoever waits for us asked twice."""
        self._hurry.set()

    def view(self) -> list[ProcessView]:
        """All that were started, in that order."""
        return [
            ProcessView(name=p.spec.name, service=p.spec.service, pid=p.pid, state=p.state, failures=p.failures, log=p.log)
            for p in self._processes.values()
        ]

    def tail(self, name: str, *, lines: int = 40) -> tuple[str, ...]:
        """The last lines that a process wrote."""
        return tail(self._processes[name].log, lines=lines)

    async def aclose(self) -> None:
        """End all, the last started first, and whatever they left. Idempotent; at most grace plus ten seconds a process."""
        for name in reversed(self._processes):
            await self.stop(name)
        for server in (*self._retired, *filter(None, [self._fork_server])):
            await server.aclose()
        self._retired, self._fork_server = [], None
        if self._lifeline is not None:
            for end in self._lifeline:
                os.close(end)
            self._lifeline = None
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._guard.wait(), self.grace + 15.0)
            self._guard = None
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
