"""The parts of an answer that is streamed, on the side that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from fabric.errors import LinkLost
from fabric.pending import Pending, Question
from fabric.routing.breaker import Breaker
from fabric.routing.outcomes import Facts
from fabric.routing.registry import Endpoint
from fabric.wire.message import MessageType, ServiceMessage

T = TypeVar("T")

REMIND: Final = 1.0
"""Seconds without a part after which the callee is told again how many there is room for: that may have been lost."""


class Asker(Protocol):
    """Who has sent the request; see ``PendingRequests``."""

    def facts(self, pending: Pending) -> dict[str, Any]: ...
    def settle(self, pending: Pending, message: ServiceMessage) -> None: ...
    def tell(self, pending: Pending, type: MessageType, payload: Any = None) -> None: ...
    def leave(self, flow: Inflow) -> None: ...


class Inflow(Pending):
    """A request whose answer comes in parts. Its future is done when no more come.

    Attributes:
        begun: done as soon as anything has come.
    """

    __slots__ = ("_expected", "_granted", "_news", "_parts", "_requests", "_taken", "_window", "begun")

    def __init__(
        self,
        requests: Asker,
        window: int,
        id: str,
        endpoint: Endpoint,
        question: Question,
        facts: Facts,
        future: asyncio.Future[Any],
        began: float,
        permit: int,
        breaker: Breaker | None,
        gate: int,
    ) -> None:
        super().__init__(id, endpoint, question, facts, future, began, permit, breaker, gate)
        self._requests, self._window, self._granted = requests, window, window
        self._parts: deque[Any] = deque()
        self._taken, self._expected = 0, 1
        self._news: asyncio.Future[None] | None = None
        self.begun: asyncio.Future[None] = self.future.get_loop().create_future()
        self.future.add_done_callback(self._tell)

    def fail(self, error: Exception) -> None:
        """No more parts come, for that reason. The first counts."""
        if not self.future.done():
            self.future.set_exception(error)

    def take(self, message: ServiceMessage) -> None:
        """A part, or the end."""
        if self.future.done():
            return
        if message.attempt != self._expected:
            error = LinkLost(f"part {self._expected} was lost on the way", **self._requests.facts(self))
            self.fail(error)
            return
        if message.type is MessageType.STREAM_END:
            self._requests.settle(self, message)
            return
        self._expected += 1
        self._parts.append(message.payload)
        self._tell()

    @property
    def failed(self) -> bool:
        """Whether it ended before there was any part."""
        return self.future.done() and self._expected == 1 and self.future.exception() is not None

    async def next(self) -> Any:
        """The next part. Parts that have come are given before the end is.

        Raises:
            StopAsyncIteration: that was all.
            CallError: it ended otherwise.
        """
        while not self._parts:
            if self.future.done():
                self.close()
                self.future.result()
                raise StopAsyncIteration
            self._news = self.future.get_loop().create_future()
            await asyncio.wait((self._news,), timeout=REMIND)
            if not self._news.done():
                self._grant()
        self._taken += 1
        if self._granted - self._taken <= self._window // 2 and not self.future.done():
            self._granted = self._taken + self._window
            self._grant()
        return self._parts.popleft()

    def close(self) -> None:
        """Nobody reads on. The callee is told if it has not ended. Idempotent."""
        self._requests.leave(self)
        self._parts.clear()

    def _grant(self) -> None:
        self._requests.tell(self, MessageType.STREAM_CREDIT, self._granted)

    def _tell(self, _: object = None) -> None:
        for waiting in (self.begun, self._news):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)


class Stream(Generic[T]):
    """The parts of one answer, in order: ``async for part in hub.stream(...)``. The call begins with the first step.

    Left early, the callee is told to stop. ``async with`` says when; without it that is when nobody holds the stream any more.
    It is for one reader.
    """

    def __init__(self, begin: Callable[[], Awaitable[Inflow]], typed: Callable[[Any], T]) -> None:
        self._begin, self._typed = begin, typed
        self._flow: Inflow | None = None
        self._reading = self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next part.

        Raises:
            CallError: as of ``Hub.call``; after the first part nothing is tried again.
            RuntimeError: somebody else reads it at the same time.
        """
        if self._closed:
            raise StopAsyncIteration
        if self._reading:
            raise RuntimeError("a stream is for one reader")
        self._reading = True
        try:
            if self._flow is None:
                self._flow = await self._begin()
            return self._typed(await self._flow.next())
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._leave()
            raise
        finally:
            self._reading = False

    async def aclose(self) -> None:
        """Read no more. Idempotent."""
        self._leave()

    def _leave(self) -> None:
        self._closed = True
        if self._flow is not None:
            self._flow.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._flow is not None and not self._closed and not self._flow.future.get_loop().is_closed():
            self._flow.close()
