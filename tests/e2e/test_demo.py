"""``make demo`` as a user runs it: a process of its own, without a terminal, and nothing of it left in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.brokers.node import BrokerNode

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

STAGES = ("core-infrastructure", "event-system", "microservices-infrastructure", "optional-features")


class Demo:
    """A running demo and everything that descends from it, told apart by the directory that it runs in."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self._directory = str(directory)
        base = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.todo.demo"],
            cwd=directory,
            env={**base, **environment, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_until(self, text: str) -> None:
        """Follow the output up to a line with ``text`` in it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        pytest.fail(f"the demo ended without {text!r}:\n{self.output}")

    def end(self) -> int:
        """Read the rest, and return the exit code."""
        assert self._process.stdout is not None
        self.lines += [line.rstrip() for line in self._process.stdout]
        return self._process.wait(60)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals, *, group: bool = True) -> None:
        """A terminal's Ctrl-C goes to the whole foreground group."""
        (os.killpg if group else os.kill)(self._process.pid, number)

    def family(self) -> list[psutil.Process]:
        """All its processes, whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == self._directory and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def left_after(self, seconds: float) -> list[str]:
        """What still runs when everything had so long to end."""
        end = time.monotonic() + seconds
        while (family := self.family()) and time.monotonic() < end:
            psutil.wait_procs(family, timeout=0.2)
        return [" ".join(process.cmdline()) for process in family if process.is_running()]

    def close(self) -> None:
        for process in self.family():
            process.kill()
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    running.close()


def assert_all_was_shown(demo: Demo) -> None:
    code = demo.end()
    assert code == 0, demo.output
    for stage in STAGES:
        assert any(stage in line and "stage open" in line for line in demo.lines), stage
    assert "15 of 15 services" in demo.output
    for stop in ("HTTP ", "event ", "meaning ", "capability ", "broadcast ", "kill -9 "):
        assert any(line.startswith(stop) for line in demo.lines), demo.output
    assert "critical path" in demo.output
    assert demo.left_after(10.0) == []


def test_on_the_embedded_broker(demo: Demo) -> None:
    """The fleet comes up through its four gates, every kind of call is shown, a gateway dies unnoticed, and all of it ends."""
    assert_all_was_shown(demo)


def test_on_rabbitmq(tmp_path: Path, broker: BrokerNode) -> None:
    """With FABRIC_BROKER_URL the same demo runs on RabbitMQ."""
    demo = Demo(tmp_path, FABRIC_BROKER_URL=broker.url)
    try:
        assert_all_was_shown(demo)
    finally:
        demo.close()


@pytest.mark.parametrize("moment", ["fleet starting", "HTTP "])
def test_ctrl_c_leaves_nothing(demo: Demo, moment: str) -> None:
    """Ctrl-C while the fleet starts, and while it is in use, stops everything; the exit code says interrupted."""
    demo.read_until(moment)
    assert len(demo.family()) > 3
    demo.signal(signal.SIGINT)
    assert demo.end() == 130, demo.output
    assert demo.left_after(10.0) == []


def test_kill_leaves_nothing(demo: Demo) -> None:
    """When the demo itself is killed with -9 in the middle of a start, its processes end on their own."""
    demo.read_until("fleet starting")
    assert len(demo.family()) > 3
    demo.signal(signal.SIGKILL, group=False)
    assert demo.end() == -signal.SIGKILL
    assert demo.left_after(60.0) == []
