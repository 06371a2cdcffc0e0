"""The supervisor's side of the fork server: asks for processes, hears of their ends, notices when it is gone itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from fabric.cli import guard
from fabric.cli.order import Order
from fabric.cli.process import FABRIC
from fabric.tasks import Tasks

EXIT_UNSEEN: Final = 256
"""No process can end with it: the exit code of one that ended when nobody was left to whom the system would have told it."""
NAME: Final = "fork-server"
_READ_AT_START: Final = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_", "OPENSSL_")
"""Beginnings of variables that the interpreter, the C library or OpenSSL read once, when they are loaded."""
_LONGEST_MARK: Final = 300
_TITLE_ROOM: Final = 200
_LIMIT: Final = 30.0
"""Seconds to make a process, loading included when it is the first."""


class ForkServerLost(Exception):
    """It is gone, or never came. Whether the process was made is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkServerSpec:
    """How the fork server is started.

    Attributes:
        environment: what all its processes have in common; may hold secrets, so it is in no repr.
        cwd: where it is started.
        modules: loaded in advance besides Fabric. They are then shared, but what they read from the environment when they are
            imported is the same for all.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path
    modules: tuple[str, ...] = ()


class Forked:
    """A process that it made."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """Its exit code; negative is the signal that ended it."""
        return await asyncio.shield(self._code)

    def end(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)


class ForkServer:
    """One fork server and the processes that it made and that still run.

    Args:
        token: begins the marks of all processes of this supervisor.
        lifeline: the descriptor that they inherit.
        lost: called once if it ends before it is told to, with the reason for people.
    """

    def __init__(self, spec: ForkServerSpec, *, token: str, lifeline: int, log: Path, lost: Callable[[str], None]) -> None:
        self._spec, self._token, self._lifeline, self._log, self._lost = spec, token, lifeline, log, lost
        self._environment: Mapping[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Forked]] = {}
        self._running: dict[int, Forked] = {}
        self._orders = 0
        self._tasks = Tasks("fork server")

    @staticmethod
    def is_possible() -> bool:
        """Linux, new enough to tell us of the ends of processes that are not our children."""
        if sys.platform != "linux":
            return False
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            return False
        return True

    @property
    def is_there(self) -> bool:
        return self._writer is not None

    @property
    def has_children(self) -> bool:
        """Whether a process that it made still runs."""
        return bool(self._running)

    async def open(self) -> Self:
        """Start it; it loads while others go on. Never raises: without it, processes are made one by one."""
        mine, its = socket.socketpair()
        mark = f"{self._token}/{NAME}/"
        self._environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **self._spec.environment,
            guard.MARK: mark.ljust(_LONGEST_MARK, "/"),
        }
        try:
            with self._log.open("ab") as output, its:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "fabric.cli.zygote", str(its.fileno()), "-" * _TITLE_ROOM, *self._spec.modules),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=dict(self._environment),
                    cwd=self._spec.cwd,
                    pass_fds=(its.fileno(), self._lifeline),
                    start_new_session=True,
                )
            reader, self._writer = await asyncio.open_unix_connection(sock=mine)
        except OSError as error:
            mine.close()
            self._lost(f"the fork server can't be started: {error}; processes load Fabric one by one, which takes longer")
        else:
            self._tasks.start(self._hear(reader), "hear")
        return self

    def makes(self, argv: tuple[str, ...], environment: Mapping[str, str]) -> bool:
        """Whether it is there, and a process that it makes is the same as one that is started afresh."""
        if self._writer is None or argv[: len(FABRIC)] != FABRIC or len(environment[guard.MARK]) > _LONGEST_MARK:
            return False
        return all(
            environment.get(name) == self._environment.get(name)
            for name in environment.keys() | self._environment.keys()
            if name.startswith(_READ_AT_START)
        )

    async def make(self, argv: tuple[str, ...], environment: Mapping[str, str], *, cwd: Path, log: Path) -> Forked:
        """Make a process.

        Raises:
            ForkServerLost: it ended meanwhile, or did not answer in time and was ended.
        """
        if self._writer is None:
            raise ForkServerLost
        self._orders += 1
        order = Order(
            id=self._orders,
            arguments=argv[len(FABRIC) :],
            environment=dict(environment),
            directory=str(cwd),
            log=str(log),
        )
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._asked[order.id] = answer
        self._writer.write(order.line())
        try:
            return await asyncio.wait_for(answer, _LIMIT)
        except TimeoutError:
            self._kill()
            raise ForkServerLost from None

    async def aclose(self) -> None:
        """End it. What it made goes on, unheard."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        await self._tasks.aclose()
        if self._process is not None:
            await self._end(5.0)

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):  # half an answer is what one that is killed may leave
            while line := await reader.readline():
                self._take(json.loads(line))
        await self._gone()

    def _take(self, told: Mapping[str, Any]) -> None:
        match told:
            case {"id": int(id), "pid": int(pid)}:
                answer = self._asked.pop(id)
                forked = self._running[pid] = Forked(pid)
                if not answer.done():
                    answer.set_result(forked)
            case {"ended": int(pid), "code": int(code)}:
                self._running.pop(pid).end(code)

    async def _gone(self) -> None:
        """From now on the ends of its processes are seen, but not their exit codes: they are not our children."""
        assert self._writer is not None
        assert self._process is not None
        self._writer.close()
        self._writer = None
        code = await self._end(2.0)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}, see {self._log}"
        self._lost(f"the fork server {how}; from now on processes load Fabric one by one, which takes longer")
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ForkServerLost())
        for forked in self._running.values():
            self._watch(forked)

    def _watch(self, forked: Forked) -> None:
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(forked.pid)
        except OSError:
            forked.end(EXIT_UNSEEN)
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            forked.end(EXIT_UNSEEN)

        if guard.carries(forked.pid, self._token):
            loop.add_reader(descriptor, ended)
        else:  # it has ended, and another has its number
            os.close(descriptor)
            forked.end(EXIT_UNSEEN)

    async def _end(self, grace: float) -> int:
        """Its exit code, after ``grace`` seconds to end by itself: it does when its socket is closed."""
        assert self._process is not None
        try:
            return await asyncio.wait_for(self._process.wait(), grace)
        except TimeoutError:
            self._kill()
            return await self._process.wait()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
