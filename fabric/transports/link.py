"""One connection of a memory or embedded transport, as its client uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from fabric.transports.backlog import Published
from fabric.transports.memory_broker import Outcome
from fabric.transports.memory_session import Verb


class Client(Protocol):
    """What a link tells its client, always from the event loop and never from within a call of the client's."""

    def delivered(self, link: Link, consumer: int, tag: int, attempt: int, message: Published) -> None: ...

    def cancelled(self, link: Link, consumer: int) -> None: ...

    def blocked(self, link: Link, reason: str) -> None:
        """ "" says that publishes may go on."""
        ...

    def lost(self, link: Link, reason: str) -> None:
        """Told once, unless the client closed it. Everything under way has failed with ``ConnectionLost`` by then."""
        ...


class Link(Protocol):
    """Lives for one epoch. Nothing on it has a limit of time but ``aclose``: that is the caller's."""

    @property
    def closed(self) -> bool: ...

    @property
    def blocked_by(self) -> str:
        """Why publishes must stop; "" when they may go on."""
        ...

    @property
    def congested(self) -> bool:
        """More is buffered than should be: ``publish`` only after ``wait_room``."""
        ...

    @property
    def max_body(self) -> int:
        """What the broker takes, in bytes."""
        ...

    async def wait_room(self) -> None:
        """
        Raises:
            ConnectionLost: the link broke.
        """
        ...

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
        """Hand over, to be confirmed; the future fails with ``ConnectionLost``. Only on a link that is not closed."""
        ...

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
        """Hand over without a confirm. False: no room."""
        ...

    def ask(self, verb: Verb, *arguments: Any) -> Awaitable[Any]:
        """
        Raises:
            ConnectionLost: the link broke.
            TopologyConflict, ConfigurationError, NoRoute: refused.
        """
        ...

    def ack(self, tag: int) -> None: ...

    def release(self, tag: int) -> None:
        """Give back what never reached a receiver."""
        ...

    def abort(self) -> None:
        """Leave at once, whatever is under way, without a word to the client. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Hand over what is buffered and leave; at most 5 seconds. Idempotent."""
        ...


Dial = Callable[[Client], Awaitable[Link]]
"""Opens a link: ``ConnectionLost`` may be tried again, ``ConfigurationError`` not."""
