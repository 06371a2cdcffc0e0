"""One side of a measurement: a process that says when it is ready, answers each line it is told, and ends with its input."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import psutil

from benchmarks.broker import cpu_of

READY_SECONDS = 60.0


class Side:
    """A running ``python -m MODULE ...``. It prints its answers, one JSON line each; its complaints go to our stderr."""

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.title = " ".join((module, *arguments))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._seen = psutil.Process(self._process.pid)

    def _line(self, timeout: float) -> str:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout)
        line = self._process.stdout.readline().strip() if readable else ""
        if not line:
            why = "ended" if readable else f"said nothing for {timeout:g} s"
            raise RuntimeError(f"{self.title}: it {why}")
        return line

    def wait_ready(self) -> None:
        if (line := self._line(READY_SECONDS)) != "ready":
            raise RuntimeError(f"{self.title}: it said {line!r} and not that it is ready")

    def tell(self, text: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def answer(self, timeout: float = 120.0) -> dict[str, Any]:
        """The next line that it prints."""
        return cast(dict[str, Any], json.loads(self._line(timeout)))

    def cpu(self) -> float:
        return cpu_of([self._seen])

    def resident_mb(self) -> float:
        return float(self._seen.memory_info().rss) / 2**20

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()


@contextmanager
def side(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Side]:
    """A side that is ready."""
    started = Side(module, *arguments, environment=environment)
    try:
        started.wait_ready()
        yield started
    finally:
        started.close()
