"""Tasks that run handlers. A handler that never waits costs no task of its own.

Making a task is the dearest step of answering a small request. So one task runs what is ready, a handler after the other; the
first that has to wait keeps the task for itself, and the rest goes on in another. Every handler has a task to itself from its
first wait to its end, so that cancelling and time-outs inside it hit nobody else.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

T = TypeVar("T")

TURN = 0.001
"""Seconds after which a task lets the loop go on and another one take over: so that answers leave while the rest is worked
on, and a thousand small requests hold up nobody's heartbeat."""


@types.coroutine
def _noticing(work: Coroutine[Any, Any, None], waits: Callable[[], None]) -> Generator[Any, Any, None]:
    """Run ``work`` as ``await`` does; call ``waits`` when it has to wait for the first time."""
    try:
        yielded = work.send(None)
        waits()
        while True:
            try:
                sent = yield yielded
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:
                yielded = work.throw(error)
            else:
                yielded = work.send(sent)
    except StopIteration:
        return


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

    def put(self, thing: T) -> None:
        """Run it from the next turn of the loop on."""
        self._ready.append(thing)
        self._relieve()

    def _relieve(self) -> None:
        """Have a task on its way for what is ready."""
        if self._ready and not self._due:
            self._due = True
            task = asyncio.get_running_loop().create_task(self._run(), name=self._name, context=self._clean.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        self._due = False
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        waited = False

        def waits() -> None:
            nonlocal waited
            waited = True
            self._relieve()

        try:
            until = loop.time() + TURN
            while self._ready and not waited and loop.time() < until:
                await _noticing(self._work(self._ready.popleft(), task), waits)
                if copy_context() != self._clean:
                    return  # it left something in the context, which the next one must not see
        finally:
            self._relieve()
