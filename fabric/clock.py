"""Time as a value that is handed in, so that tests move it by hand."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        ...

    def time(self) -> float:
        """Seconds since 1970, comparable between machines as far as their clocks agree."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after ``seconds``; zero or less only yields."""
        ...


class SystemClock:
    """The clock of this machine."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
    sleep = staticmethod(asyncio.sleep)
