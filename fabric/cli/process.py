"""One program that is started, and started again when it fails and that is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fabric.cli import guard
from fabric.cli.logfile import tail
from fabric.clock import Clock

FABRIC = (sys.executable, "-m", "fabric.cli")
"""How a process of Fabric's own is started: what comes behind are arguments of the command line."""
EXIT_CONFIGURATION = 2
"""A process that ends with this code was started wrongly; starting it again the same way is of no use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """When a process that ended by itself is started again.

    Attributes:
        on_failure: after a non-zero exit or a signal; False never.
        attempts: starts in all before it has once been up; after that there is no limit.
        delay, factor, max_delay: seconds before the first start again, its growth, and its bound. Longer spares the
            machine, shorter brings it back sooner.
        reset_after: seconds of running after which the next failure counts as the first again.
    """

    on_failure: bool = True
    attempts: int = 1
    delay: float = 0.5
    factor: float = 2.0
    max_delay: float = 30.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.delay < 0 or self.factor < 1 or self.max_delay < self.delay:
            raise ValueError(f"attempts and factor must be at least 1 and 0 <= delay <= max_delay, not {self}")

    def pause(self, *, code: int, failures: int, was_up: bool) -> float | None:
        """Seconds until the next start after the ``failures``-th failure in a row; None: no more."""
        if not self.on_failure or code in (0, EXIT_CONFIGURATION) or (not was_up and failures >= self.attempts):
            return None
        return float(min(self.max_delay, self.delay * self.factor ** min(failures - 1, 64)))


NEVER = Restart(on_failure=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to start.

    Attributes:
        name: unique in its supervisor, such as an instance id; names the log file.
        service: the role it plays.
        argv: program and arguments.
        env: added to the supervisor's own environment; may hold secrets, so it is in no repr.
        cwd: None is the supervisor's.
    """

    name: str
    service: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    restart: Restart = NEVER


class ProcessState(enum.StrEnum):
    RUNNING = "running"
    RESTARTING = "restarting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """A process ended without being told to.

    Attributes:
        code: its exit code; negative is the signal that ended it; 127: it could not be started; 256: nobody saw it.
        uptime: seconds.
        log: the last lines it wrote.
        restarting_in: seconds until it is started again, None: never.
    """

    name: str
    service: str
    pid: int
    code: int
    uptime: float
    log: tuple[str, ...]
    restarting_in: float | None


class Running(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Its exit code; negative is the signal that ended it."""
        ...


Starter = Callable[[ProcessSpec, Mapping[str, str], Path], Awaitable[Running]]
"""Starts a process with this environment, writing to this file; raises OSError where that can't be."""


async def start_program(spec: ProcessSpec, environment: Mapping[str, str], log: Path, *, lifeline: int) -> Running:
    """The starter of any program.

    Args:
        lifeline: a descriptor that it inherits.
    """
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=spec.cwd,
            pass_fds=(lifeline,),
            start_new_session=True,
        )


class Process:
    """One spec and the process that now plays it. Owned by the supervisor; ``run`` is its task."""

    def __init__(self, spec: ProcessSpec, log: Path, environment: Mapping[str, str], start: Starter, clock: Clock) -> None:
        self.spec, self.log = spec, log
        self.pid = 0
        self.state = ProcessState.RUNNING
        self.was_up = False
        self.failures = 0
        self._alive = False
        self.stopping = asyncio.Event()
        self._environment, self._start, self._clock = environment, start, clock

    async def run(self, on_start: Callable[[], None], on_end: Callable[[ProcessEnd], None]) -> None:
        """From the first start to the end for good. ``on_start`` is called at each start, also one that failed."""
        while not self.stopping.is_set():
            began = self._clock.monotonic()
            code = await self._once(on_start)
            if self.stopping.is_set():
                break
            uptime = self._clock.monotonic() - began
            lasted = self.was_up and uptime >= self.spec.restart.reset_after
            self.failures = 1 if lasted else self.failures + 1
            pause = self.spec.restart.pause(code=code, failures=self.failures, was_up=self.was_up)
            self.state = ProcessState.ENDED if pause is None else ProcessState.RESTARTING
            on_end(
                ProcessEnd(
                    name=self.spec.name,
                    service=self.spec.service,
                    pid=self.pid,
                    code=code,
                    uptime=uptime,
                    log=tail(self.log),
                    restarting_in=pause,
                )
            )
            if pause is None:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause)
        self.state = ProcessState.ENDED

    async def _once(self, on_start: Callable[[], None]) -> int:
        try:
            process = await self._start(self.spec, self._environment, self.log)
        except OSError as error:
            with self.log.open("a", encoding="utf-8") as output:
                output.write(f"can't start {self.spec.argv[0]!r}: {error}\n")
            on_start()
            return 127
        self.pid, self.state, self._alive = process.pid, ProcessState.RUNNING, True
        on_start()
        if self.stopping.is_set():  # told to stop while it was being started
            self.signal(signal.SIGTERM)
        code = await process.wait()
        self._alive = False
        # what it started itself must not outlive it, nor meet its successor
        await asyncio.to_thread(guard.sweep, self._environment[guard.MARK], grace=0.5)
        return code

    def signal(self, number: signal.Signals) -> None:
        """To it and its group, if it runs; never to another that has its id by now."""
        if self._alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """How a process is now. ``failures``: in a row."""

    name: str
    service: str
    pid: int
    state: ProcessState
    failures: int
    log: Path
