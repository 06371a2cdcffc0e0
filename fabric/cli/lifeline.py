"""The end of a child's life when its supervisor is gone: the other end of the pipe that ``supervisor.py`` holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping


@contextlib.asynccontextmanager
async def until_told(environment: Mapping[str, str] | None = None) -> AsyncIterator[asyncio.Event]:
    """An event that is set by SIGTERM, SIGINT, or the end of the lifeline named by ``FABRIC_LIFELINE_FD``."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    descriptor = (os.environ if environment is None else environment).get("FABRIC_LIFELINE_FD")
    lifeline = int(descriptor) if descriptor else None

    def readable() -> None:
        assert lifeline is not None
        with contextlib.suppress(OSError):
            if os.read(lifeline, 1024):
                return
        loop.remove_reader(lifeline)
        told.set()

    if lifeline is not None:
        loop.add_reader(lifeline, readable)
    try:
        yield told
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if lifeline is not None:
            loop.remove_reader(lifeline)
