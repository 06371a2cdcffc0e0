"""Tasks that run handlers. A handler that never waits costs no task of its own.

Making a task is the dearest step of answering a small request. So one task runs what is ready, a handler after the other; the
first that has to wait keeps the task for itself, and the rest goes on in another. Every handler has a task to itself from its
first wait to its end, so that cancelling and time-outs inside it hit nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

TURN = 0.001
"""Seconds after which a task lets the loop go on and another one take over: so that answers leave while the rest is worked
on, and a thousand small requests hold up nobody's heartbeat."""
MOST_HANDS: Final = 64
"""Tasks that begin in one turn."""


class Workers(Generic[T]):
    """Runs ``work(thing)`` for each thing that is put in, in order, all at the same time as far as they wait.

    Args:
        work: runs one thing; is told its task. What it raises ends that task and reaches the loop's exception handler.
        name: of the tasks.

    Each thing begins in the context in which the workers were made.
    """

    def __init__(self, work: Callable[[T, asyncio.Task[None]], Coroutine[Any, Any, None]], name: str) -> None:
        self._work, self._name = work, name
        self._clean: Context = copy_context()
        self._ready: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = False
        self._turn = 0
        self._hands, self._quick = 1, False

    def put(self, thing: T) -> None:
        """Run it from the next turn of the loop on."""
        self._ready.append(thing)
        if not self._due:
            self._relieve()

    def _relieve(self) -> None:
        """Have tasks on their way for what is ready: one, or twice as many as last time if all of those have to wait. Look again
        when they have had their turn."""
        self._turn += 1
        self._due = bool(self._ready)
        if not self._due:
            return
        loop = asyncio.get_running_loop()
        for _ in range(min(self._hands, len(self._ready))):
            task = loop.create_task(self._run(), name=self._name, context=self._clean.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        loop.call_soon(self._after)

    def _after(self) -> None:
        self._hands = 1 if self._quick else min(2 * self._hands, MOST_HANDS)
        self._quick = False
        self._relieve()

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        turn, clean = self._turn, self._clean
        now = asyncio.get_running_loop().time
        until = now() + TURN
        while self._ready and now() < until:
            await self._work(self._ready.popleft(), task)
            if self._turn != turn or task.cancelling() or copy_context() != clean:
                return  # it waited and has kept the task for itself, or has left in it what the next one must not see
            self._quick = True
