"""Tasks that run handlers. A handler that never waits costs no task of its own.

Making a task is the dearest step of answering a small request. So one task runs what is ready, a handler after the other, and
then waits for more; the first handler that has to wait keeps the task for itself, and the rest goes on in another. Every handler
has a task to itself from its first wait to its end, so that cancelling and time-outs inside it hit nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

TURN = 0.001
"""Seconds after which a task lets the loop go on and another one take over: so that answers leave while the rest is worked
on, and a thousand small requests hold up nobody's heartbeat."""
MOST_HANDS: Final = 64
"""Tasks that begin in one turn."""
MOST_IDLE: Final = 32
"""Tasks that are kept for what comes next."""
_LAST_STEP: Final = 1.0
"""Seconds for what takes one turn of the loop."""


class Workers(Generic[T]):
    """Runs ``work(thing)`` for each thing that is put in, in order, all at the same time as far as they wait.

    Args:
        work: runs one thing; is told its task. What it raises ends that task and reaches the loop's exception handler.
        name: of the tasks.
        begin: sets in the context, which is that in which the workers were made, what ``work`` should find there; with None
            takes it back.
    """

    def __init__(
        self,
        work: Callable[[T, asyncio.Task[None]], Coroutine[Any, Any, None]],
        name: str,
        *,
        begin: Callable[[T | None], object] = id,
    ) -> None:
        self._work, self._name, self._begin = work, name, begin
        self._clean: Context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._ready: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[tuple[asyncio.Future[None], asyncio.Task[None]]] = []
        self._due = self._watched = self._closed = False
        self._turn = 0
        self._hands, self._quick = 1, False

    def put(self, thing: T) -> None:
        """Run it from the next turn of the loop on."""
        self._ready.append(thing)
        if not self._due:
            self._due = True
            self._turn += 1
            self._call()

    def _call(self) -> None:
        """Have a task on its way for what is ready."""
        while self._idle:
            idle, _ = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return
        task = self._loop.create_task(self._run(), name=self._name, context=self._clean.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        ready = self._ready
        while True:
            turn, until = self._turn, monotonic() + TURN
            while ready:
                thing = ready.popleft()
                if ready:
                    self._watch()
                else:
                    self._due = False
                self._begin(thing)
                context = copy_context()
                await self._work(thing, task)
                del thing
                if task.cancelling() or copy_context() != context:
                    return  # it has left something in the task that the next one must not see
                if self._turn != turn:
                    break  # it waited, and another task has taken over
                self._quick = True
                if monotonic() >= until:
                    break
            if self._closed or len(self._idle) >= MOST_IDLE:
                return
            self._begin(None)
            more: asyncio.Future[None] = self._loop.create_future()
            self._idle.append((more, task))
            await more

    def _watch(self) -> None:
        """Look after this turn whether the task that runs now has to wait, while others are ready."""
        if not self._watched:
            self._watched = True
            self._loop.call_soon(self._relieve)

    def _relieve(self) -> None:
        """Have other tasks on their way for what is left: one, or twice as many as last time if all of those had to wait."""
        self._watched = False
        self._hands = 1 if self._quick else min(2 * self._hands, MOST_HANDS)
        self._quick = False
        self._due = bool(self._ready)
        self._turn += self._due
        for _ in range(min(self._hands, len(self._ready))):
            self._call()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._ready:
            self._watch()

    async def aclose(self) -> None:
        """Keep no task for what comes next, and wait for the last step of those that were kept."""
        self._closed = True
        kept, self._idle = self._idle, []
        for idle, _ in kept:
            if not idle.done():
                idle.set_result(None)
        if kept:
            await asyncio.wait([task for _, task in kept], timeout=_LAST_STEP)
