"""Ends what a supervisor left behind, even one that was killed with -9.

Every process that a supervisor starts carries a mark in its environment, and so does what that process starts. The guard
is one small process beside the supervisor, which holds the guard's standard input open. When that closes, the guard ends
whatever still carries the mark: stuck services, foreign commands that know nothing of the lifeline, their children.
Marks, not process ids or groups, because ids are used again and groups can be left.

It is run as a script, so it imports nothing of Fabric; and psutil only when there is something to do, so that it costs next
to nothing until then.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARK = "FABRIC_SUPERVISOR"
"""The environment variable: ``TOKEN/NAME``, the supervisor's token and the name of the process it started."""


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry ``mark``, or one that begins with it and a slash; without the caller."""
    import psutil

    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _carries(process, mark)]


def carries(pid: int, mark: str) -> bool:
    """Whether the process ``pid`` is there and carries ``mark``, or one that begins with it and a slash."""
    import psutil

    try:
        return _carries(psutil.Process(pid), mark)
    except psutil.NoSuchProcess:
        return False


def _carries(process: psutil.Process, mark: str) -> bool:
    import psutil

    try:
        value = process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return False
    return value == mark or value.startswith(mark + "/")


def sweep(mark: str, *, grace: float, limit: float = 10.0) -> int:
    """End all that carry ``mark``: SIGTERM, up to ``grace`` seconds, SIGKILL. Blocks.

    Args:
        limit: seconds after the grace to keep killing; one that forks faster than that wins.

    Returns:
        How many processes were there.
    """
    import psutil

    if not (victims := marked(mark)):
        return 0
    seen = {process.pid for process in victims}
    _signal(victims, signal.SIGTERM)
    psutil.wait_procs(victims, timeout=grace)
    deadline = time.monotonic() + limit
    while (left := marked(mark)) and time.monotonic() < deadline:
        # again until a look finds none: one may have forked while it was being ended
        seen |= {process.pid for process in left}
        _signal(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1.0)
    return len(seen)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def main(mark: str, grace: float) -> None:
    """Wait until nobody holds our standard input, then sweep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 4096):
        pass
    sweep(mark, grace=grace)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
