"""What a method gives back, on the side that makes it: one whole answer, or the parts of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from pydantic import ValidationError

from fabric.replies import Replies
from fabric.values import LEAVES, checked, plain, problems
from fabric.wire.message import MessageType, ServiceMessage

WINDOW: Final = "fabric.window"
"""The header of a request by which its caller asks for parts: how many may be on the way at first."""

TURN: Final = 64
"""Parts after which others get their turn of the loop, however much room there is and however quickly they are made."""


class Misfit(Exception):
    """What a method returned is not what its type says. ``problems`` as of ``fabric.values``."""

    def __init__(self, error: ValidationError) -> None:
        self.problems = problems(error)
        super().__init__("; ".join(f"{'.'.join(item['loc']) or 'value'}: {item['msg']}" for item in self.problems[:3]))


def returned(kind: Any, value: Any) -> Any:
    """What ``value``, which should be a ``kind``, is on the wire.

    Raises:
        Misfit: it is not one.
    """
    if type(value) is kind or kind is Any:
        return value if type(value) in LEAVES else plain(value)
    try:
        return plain(checked(kind, value))
    except ValidationError as error:
        raise Misfit(error) from None


class Outflow:
    """The parts of one answer, numbered from 1. Never more are on the way than the reader has room for."""

    __slots__ = ("_granted", "_room", "sent")

    def __init__(self, window: int) -> None:
        self._granted = window
        self._room: asyncio.Future[None] | None = None
        self.sent = 0

    @classmethod
    def asked_by(cls, request: ServiceMessage) -> Outflow:
        """What the request asks for."""
        window = request.headers.get(WINDOW) if request.headers is not None else None
        return cls(window if type(window) is int and window > 0 else 1)

    def grant(self, upto: object) -> None:
        """The reader has room for all parts up to that number. It is a total, so one that is lost is made good by the next."""
        if type(upto) is int and upto > self._granted:
            self._granted = upto
            if self._room is not None and not self._room.done():
                self._room.set_result(None)

    async def pour(
        self, parts: AsyncGenerator[Any, None], kind: Any, replies: Replies, request: ServiceMessage, deadline: float
    ) -> None:
        """Send all parts, each a ``kind``, and each when there is room for it.

        Raises:
            PayloadTooLarge, InvalidMessage: a part can't be sent.
            Misfit: a part is not what the method's type says.
            Exception: whatever the method raises.
        """
        async with aclosing(parts) as source:
            async for part in source:
                payload = returned(kind, part)
                while self.sent >= self._granted:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                replies.send(request, MessageType.STREAM_ITEM, deadline, payload, number=self.sent + 1)
                self.sent += 1
                if self.sent % TURN == 0:
                    await asyncio.sleep(0)

    def end(self, replies: Replies, request: ServiceMessage, deadline: float, error: dict[str, Any] | None) -> None:
        """Say that no more parts come, and why if that is not all."""
        replies.send(request, MessageType.STREAM_END, deadline, None, error, number=self.sent + 1)
