"""A timer that keeps its time to a tenth of a millisecond, for waits of a millisecond or less.

Event loops' own timers have steps of a millisecond, so that what should take one takes one to two. On Linux the kernel's timerfd
does better: a file that the loop reads when its time has come.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time
from collections.abc import Callable

_EXPIRATIONS = 8
"""Bytes to read from a timerfd: how often it has rung."""


class FineTimer:
    """Calls ``ring`` in the event loop once for each ``set``. Without timerfd, as outside Linux, it is one of the loop's timers.

    What it holds, a file, is there from the first ``set`` until ``close``.
    """

    __slots__ = ("_file", "_libc", "_loop", "_ring", "_timer")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop, self._ring = asyncio.get_running_loop(), ring
        self._libc: ctypes.CDLL | None = None
        self._file = -1
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring after that long, and not when it was to ring before."""
        if self._libc is None:
            self._libc = ctypes.CDLL(None)
            self._file = _timerfd(self._libc)
            if self._file >= 0:
                self._loop.add_reader(self._file, self._read)
        if self._file < 0:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(seconds, self._ring)
            return
        whole, nanoseconds = divmod(max(1, round(seconds * 1e9)), 1_000_000_000)  # zero would turn it off
        self._libc.timerfd_settime(self._file, 0, struct.pack("4l", 0, 0, whole, nanoseconds), None)

    def _read(self) -> None:
        try:
            os.read(self._file, _EXPIRATIONS)
        except BlockingIOError:
            return  # it was set anew in this turn
        self._ring()

    def close(self) -> None:
        """Never ring again. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1
            self._libc = None


def _timerfd(libc: ctypes.CDLL) -> int:
    """A new one, -1 where there are none. ``os`` has them from Python 3.13 on."""
    create = getattr(libc, "timerfd_create", None)
    return -1 if create is None else int(create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
