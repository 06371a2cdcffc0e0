"""How a process runs: on uvloop where that is installed (the extra ``fast``), and without long pauses for garbage."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import Any, Final, TypeVar

T = TypeVar("T")

SETTLED: Final = 1.0
"""Seconds after which most of what a process keeps for good is there."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``. What is loaded by now, or in the first second, is never looked at for garbage again (``gc.freeze``): to
    look through all modules and classes takes 20 to 60 ms, in which a process answers nobody, and under load it is done every
    second or two. Garbage that comes later is collected as ever."""
    gc.freeze()
    if find_spec("uvloop") is None:
        return asyncio.run(_settling(main))
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_settling(main))


async def _settling(main: Coroutine[Any, Any, T]) -> T:
    settled = asyncio.get_running_loop().call_later(SETTLED, gc.freeze)
    try:
        return await main
    finally:
        settled.cancel()
