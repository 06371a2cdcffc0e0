"""What is under way on a publishing channel, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fabric.deadlines import Lookout
from fabric.errors import ConfigurationError, ConnectionLost, FabricError, NoRoute, NotSent
from fabric.transports import amqp_frames as frames
from fabric.transports.base import Told

_log = logging.getLogger("fabric.transports.amqp")


class Sending:
    """One publish that waits for its confirm.

    Args:
        timeout: seconds that it has.
        due: when these are over, in the loop's time.
    """

    __slots__ = ("_told", "due", "ended", "exchange", "id", "key", "timeout")

    def __init__(self, told: Told, exchange: str, key: str, id: bytes, timeout: float, due: float) -> None:
        self._told, self.exchange, self.key, self.id = told, exchange, key, id
        self.timeout, self.due = timeout, due
        self.ended = False

    def end(self, error: FabricError | None) -> None:
        """Tell how it ended, unless that is told already."""
        if not self.ended:
            self.ended = True
            try:
                self._told(error)
            except Exception:  # what others do with the news must not keep the frames behind from being read
                _log.exception("who sent to %r, %r failed to hear how it ended", self.exchange, self.key)

    def forget(self) -> None:
        """How it ends need not be told any more."""
        self.ended = True


class Confirms:
    """The lane of a channel with confirms: what is under way on it, by tag and by message id."""

    def __init__(self) -> None:
        self._tag = 0
        self._sendings: dict[int, Sending] = {}
        self._tags: dict[bytes, int] = {}
        self._lookout: Lookout[Sending] = Lookout(self._sendings, _expire)
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def is_closed(self) -> bool:
        """Nothing more may be written: the broker would close the whole link."""
        return self.closed.done()

    def add(self, sending: Sending) -> None:
        """In the order of writing: the broker counts them too."""
        self._tag += 1
        self._sendings[self._tag] = sending
        self._tags[sending.id] = self._tag
        if sending.due < self._lookout.next:
            self._lookout.expect(sending.due)

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        if not multiple:
            self._settle(tag, taken)
            return
        while self._sendings and (first := next(iter(self._sendings))) <= tag:
            self._settle(first, taken)

    def _settle(self, tag: int, taken: bool) -> None:
        sending = self._sendings.pop(tag, None)
        if sending is None:
            return
        self._tags.pop(sending.id, None)
        if taken:
            sending.end(None)
        else:
            sending.end(NotSent(f"the broker refused it: a queue behind {sending.exchange!r}, {sending.key!r} is full or failed"))

    def on_content(self, method: bytes, header: bytes, body: bytes) -> None:
        """Returned: it comes before the confirm of the same publish."""
        id = frames.read_properties(header).message_id
        sending = self._sendings.get(self._tags.get((id or "").encode(), 0))
        if sending is not None:
            sending.end(NoRoute(sending.exchange, sending.key))

    def on_fence(self) -> bool:
        return False

    def on_cancel(self) -> None:
        return

    def on_close(self, code: int, reason: str) -> None:
        """The broker tells which exchange it minds, not which publish; nothing behind that one was looked at."""
        if not self.closed.done():  # before anybody hears of it, who may want to send more at once
            self.closed.set_result(f"{code} {reason}")
        for sending in self._take_all():
            if code == 404 and f"'{sending.exchange}'" in reason:
                sending.end(NoRoute(sending.exchange, sending.key))
            elif code == 403 and f"'{sending.exchange}'" in reason:
                sending.end(ConfigurationError(f"publishing to {sending.exchange!r}: refused: {reason}"))
            else:
                sending.end(ConnectionLost(f"the channel was closed before it was confirmed: {code} {reason}"))

    def lose(self, reason: str) -> None:
        for sending in self._take_all():
            sending.end(ConnectionLost(f"sent but not confirmed: {reason}"))

    def _take_all(self) -> list[Sending]:
        sendings = list(self._sendings.values())
        self._sendings.clear()
        self._tags.clear()
        self._lookout.close()
        return sendings


def _expire(sending: Sending) -> None:
    sending.end(ConnectionLost(f"sent but not confirmed within {sending.timeout:g} s"))


FENCE_SECONDS = 0.01
"""How long the broker is not asked what it has. Most of what is sent so is answered in that time, and needs no question."""


class Fences(Confirms):
    """The same of a channel without confirms, on which the broker says at once only what it could not deliver.

    It does what comes on a channel in order. So now and then it is asked for something else there, and its answer says that it
    has all that was sent before the question, but for what it returned.

    Args:
        ask: writes the question.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__()
        self._ask = ask
        self._asked_at_tag = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sending: Sending) -> None:
        super().add(sending)
        if self._timer is None and not self._asked_at_tag:
            self._timer = asyncio.get_running_loop().call_later(FENCE_SECONDS, self.look)

    def look(self) -> None:
        """Ask, if somebody waits to know."""
        self._forget_timer()
        for tag in [tag for tag, sending in self._sendings.items() if sending.ended]:
            del self._tags[self._sendings.pop(tag).id]
        if self._sendings and not self._asked_at_tag and not self.is_closed:
            self._asked_at_tag = self._tag
            self._ask()

    def on_fence(self) -> bool:
        tag, self._asked_at_tag = self._asked_at_tag, 0
        if not tag:
            return False
        self.on_confirm(tag, multiple=True, taken=True)
        if self._sendings:
            self._timer = asyncio.get_running_loop().call_later(FENCE_SECONDS, self.look)
        return True

    def _take_all(self) -> list[Sending]:
        self._forget_timer()
        return super()._take_all()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
