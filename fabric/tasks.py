"""Background tasks with an owner: none outlives it, and none fails unheard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger("fabric.tasks")


class Tasks:
    """The running tasks of one object. ``aclose`` cancels and awaits them all.

    Args:
        owner: for names and the log.
        patience: seconds that a cancelled task may take to clean up before it is cancelled again.
    """

    def __init__(self, owner: str, *, patience: float = 10.0) -> None:
        self._owner, self._patience = owner, patience
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
        """Let them end by themselves, those included that they start meanwhile. Returns whether all did within ``timeout``
        seconds. One of them that asks does not wait for itself."""
        now = asyncio.get_running_loop().time
        until = now() + timeout
        while tasks := self._others():
            if now() >= until:
                return False
            await asyncio.wait(tasks, timeout=until - now())
        return True

    async def aclose(self) -> None:
        """Cancel them and wait until they have ended. Idempotent.

        Cancelling can be lost on the way (``asyncio.wait_for`` does that when its time is up at the same moment), so it is
        repeated.
        """
        self._closed = True
        while tasks := self._others():
            for task in tasks:
                task.cancel()
            _, left = await asyncio.wait(tasks, timeout=self._patience)
            for task in left:
                _log.warning("%s was cancelled and goes on", task.get_name())

    def _others(self) -> list[asyncio.Task[Any]]:
        mine = asyncio.current_task()
        return [task for task in self._running if task is not mine]
