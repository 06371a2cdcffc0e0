"""Goes on in the background, while the command line waits until it is told to return."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def into_background(log: Path) -> Callable[[int], None]:
    """Fork: the child returns from this and does the work; the parent waits for it and exits.

    Until the work says how it goes, its output is what the parent's would be; from then on it goes to ``log``. Must be
    called before there are threads or an event loop.

    Returns:
        In the child: what takes the exit code of the parent and lets it go. When the child ends without it, the parent
        exits as the child did. Ctrl-C in the parent stops the child in order.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        sys.exit(_wait(child, told))
    os.close(told)
    os.setsid()
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def announce(code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for stream, file in ((0, nothing), (1, output), (2, output)):
            os.dup2(file, stream)
        os.close(output)
        os.close(nothing)
        os.write(tell, bytes([code]))
        os.close(tell)

    return announce


def _wait(child: int, told: int) -> int:
    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if said := os.read(told, 1):
        return said[0]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
