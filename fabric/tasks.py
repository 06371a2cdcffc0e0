"""Background tasks with an owner: none outlives it, and none fails unheard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger("fabric.tasks")


class Tasks:
    """The running tasks of one object. ``aclose`` cancels and awaits them all."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``work``. An error that it raises is logged with the owner's name.

        Raises:
            RuntimeError: the owner is closed.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"{self._owner} is closed")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}: {name}")
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed: %r", task.get_name(), error, exc_info=error)

    async def wait(self, timeout: float) -> bool:
        """Let them end by themselves. Returns whether all did within ``timeout`` seconds."""
        if not self._running:
            return True
        _, left = await asyncio.wait(tuple(self._running), timeout=timeout)
        return not left

    async def aclose(self) -> None:
        self._closed = True
        mine = asyncio.current_task()
        tasks = [task for task in self._running if task is not mine]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
