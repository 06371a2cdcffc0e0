"""Being told to stop, by Ctrl-C or a signal, once or twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Told:
    """While its context lasts, SIGINT, SIGTERM and SIGHUP only say so here; the second one says it with haste."""

    def __init__(self) -> None:
        self._once, self._twice = asyncio.Event(), asyncio.Event()
        self._in_haste: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._hear)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    @property
    def to_stop(self) -> bool:
        return self._once.is_set()

    def in_haste(self, act: Callable[[], None]) -> None:
        """Call ``act`` when it is said a second time."""
        self._in_haste.append(act)

    async def unless(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What ``work`` returns, or None when told to stop before it was done; then it is cancelled."""
        return await _race(self._once, work)

    async def unless_in_haste(self, work: Coroutine[Any, Any, T]) -> T | None:
        """As ``unless``, for work that the first Ctrl-C asks for and only the second cuts off."""
        return await _race(self._twice, work)

    def _hear(self) -> None:
        if self._once.is_set():
            self._twice.set()
            for act in self._in_haste:
                act()
        self._once.set()


async def _race(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    doing = asyncio.ensure_future(work)
    waiting: asyncio.Future[Any] = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)
