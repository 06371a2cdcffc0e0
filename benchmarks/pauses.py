"""What the machine takes for itself: how long plain loops, as many as a load and its server, are not running, and what the
host of a virtual machine says that it took.

Whoever else has work on the machine, and the host of a virtual one, shows here and in no other figure: a process that is not
running can't see why, and its processor time may go on. A call that needs two processes meets the pauses of both.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from time import monotonic

import psutil

LEAST = 0.0005
"""Seconds; what a loop of a few instructions takes longer for was a pause."""
BESIDE = 2
"""Loops that run at the same time."""


def watch(seconds: float) -> list[float]:
    """The pauses of this process in that time, in seconds."""
    found: list[float] = []
    gc.disable()
    last = monotonic()
    end = last + seconds
    while last < end:
        now = monotonic()
        if now - last >= LEAST:
            found.append(now - last)
        last = now
    gc.enable()
    return found


def pauses(seconds: float) -> dict[str, float]:
    """Of ``BESIDE`` loops in processes of their own: ``share`` of their time that is lost, which they sum up to, and the
    ``longest_ms``."""
    loops = [
        subprocess.Popen([sys.executable, "-m", __name__, str(seconds)], stdout=subprocess.PIPE, text=True) for _ in range(BESIDE)
    ]
    found: list[Sequence[float]] = [json.loads(loop.communicate(timeout=seconds + 60)[0]) for loop in loops]
    return {
        "share": sum(map(sum, found)) / seconds,
        "longest_ms": max((pause for each in found for pause in each), default=0.0) * 1e3,
    }


class Host:
    """What the host takes from now on: other guests of the same processors had them."""

    def __init__(self) -> None:
        self._stolen, self._all = _times()

    def share(self) -> float:
        """Of the time of all processors; 0 where no host says so."""
        stolen, all = _times()
        return (stolen - self._stolen) / max(all - self._all, 1e-9)


def _times() -> tuple[float, float]:
    times = psutil.cpu_times()
    return getattr(times, "steal", 0.0), sum(times)


if __name__ == "__main__":
    print(json.dumps(watch(float(sys.argv[1]))))
