"""A link within one process: both its ends."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from fabric.errors import ConnectionLost
from fabric.transports.backlog import Held
from fabric.transports.link import Client
from fabric.transports.memory_broker import Outcome
from fabric.transports.memory_session import Session, Verb

_MOST_HELD = 10_000
"""Operations that a paused link keeps, as the buffers of a socket would."""


class MemoryLink:
    """``Link`` for its client and ``Carrier`` for its session.

    What the client asks for happens at once. What the broker says is told in a later turn of the loop, in order, so that a
    receiver never runs within somebody's ``send``.

    Args:
        client: told what happens.
        max_body: what the broker takes, in bytes.
        silent: called when nothing passes any more.
    """

    def __init__(self, client: Client, *, max_body: int, silent: Callable[[MemoryLink], None]) -> None:
        self.session: Session
        self.closed = False
        self.congested = False
        self.max_body = max_body
        self.blocked_by = ""
        self.paused = 0
        """0, or the number of the present pause."""
        self._client, self._silent = client, silent
        self._loop = asyncio.get_running_loop()
        self._words: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._awake = False
        self._pauses = 0
        self._held: deque[Callable[[], object]] = deque()
        self._waiting: set[asyncio.Future[Any]] = set()

    # The client's end.

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        priority: int,
        content_type: str,
        headers: Mapping[str, Any] | None,
        message_id: str | None,
        expires: float | None,
        delay: float | None,
    ) -> Outcome | asyncio.Future[Outcome]:
        arguments = (exchange, key, body, priority, content_type, headers, message_id, expires, delay)
        if self.paused:
            return self._later(lambda: self.session.publish(*arguments))
        return self.session.publish(*arguments)

    def post(
        self,
        exchange: str,
        key: str,
        body: bytes,
        priority: int,
        content_type: str,
        headers: Mapping[str, Any] | None,
        expires: float | None,
    ) -> bool:
        arguments = (exchange, key, body, priority, content_type, headers, None, expires, None)
        if self.paused:
            if len(self._held) >= _MOST_HELD:
                return False
            self._held.append(functools.partial(self.session.publish, *arguments))
        else:
            self.session.publish(*arguments)
        return True

    async def ask(self, verb: Verb, *arguments: Any) -> Any:
        if self.closed:
            raise ConnectionLost("the link is gone")
        if self.paused:
            return await self._later(lambda: self.session.perform(verb, arguments))
        return self.session.perform(verb, arguments)

    def ack(self, tag: int) -> None:
        self._tell(lambda: self.session.ack(tag))

    def release(self, tag: int) -> None:
        self._tell(lambda: self.session.release(tag))

    async def wait_room(self) -> None:
        """It is never congested."""

    def abort(self) -> None:
        """A paused session stays until the pause ends: the broker can't know."""
        self.closed = True
        self._fail_waiting("the link was given up")
        self._held.clear()
        self._words.clear()
        if not self.paused:
            self.session.close()

    async def aclose(self) -> None:
        self.abort()

    def give_up(self, reason: str) -> None:
        """The client has noticed that nothing passes."""
        if not self.closed:
            self.abort()
            self._client.lost(self, reason)

    # The broker's end.

    def deliver(self, consumer: int, tag: int, held: Held) -> None:
        self._words.append((self._client.delivered, (self, consumer, tag, held.attempt, held.message)))
        self._wake()

    def cancelled(self, consumer: int) -> None:
        self._words.append((self._client.cancelled, (self, consumer)))
        self._wake()

    def blocked(self, reason: str) -> None:
        self.blocked_by = reason
        self._words.append((self._client.blocked, (self, reason)))
        self._wake()

    def sever(self, reason: str) -> None:
        self.paused = 0
        if self.closed:
            self.session.close()
        else:
            self.give_up(reason)

    def pause(self) -> None:
        self._pauses += 1
        self.paused = self._pauses
        self.session.stall(True)
        self._silent(self)

    def resume(self) -> None:
        self.paused = 0
        if self.closed:
            self.session.close()
            return
        while self._held:
            self._held.popleft()()
        self.session.stall(False)
        self._wake()

    def _wake(self) -> None:
        if not self._awake and not self.paused:
            self._awake = True
            self._loop.call_soon(self._say)

    def _say(self) -> None:
        """Tell what was there when it was woken, so that others get their turn before what follows from it."""
        self._awake = False
        for _ in range(len(self._words)):
            # A receiver may have closed or paused this very link.
            if self.paused or not self._words:
                return
            call, arguments = self._words.popleft()
            call(*arguments)

    def _tell(self, act: Callable[[], None]) -> None:
        if self.paused:
            if len(self._held) < _MOST_HELD:
                self._held.append(act)
        elif not self.closed:
            act()

    def _later(self, act: Callable[[], Any]) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(done)
        done.add_done_callback(self._waiting.discard)

        def finish() -> None:
            try:
                result = act()
            except Exception as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        self._held.append(finish)
        return done

    def _fail_waiting(self, reason: str) -> None:
        for done in list(self._waiting):
            if not done.done():
                done.set_exception(ConnectionLost(f"{reason} before the broker answered"))
