"""The client's end of a socket to the embedded broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, cast

from fabric.errors import ConnectionLost, InvalidMessage
from fabric.transports.backlog import Published
from fabric.transports.embedded_frames import (
    BEFORE_WELCOME,
    VERSION,
    FrameReader,
    FrameWriter,
    Word,
    frame_limit,
    refused,
    to_letters,
)
from fabric.transports.link import Client
from fabric.transports.memory_broker import Outcome
from fabric.transports.memory_session import Verb
from fabric.wire.message import Priority

_SILENT_TICKS = 4
_MOST_POSTED = 8 * 1024 * 1024
_LEAVE = 4.0
_OUTCOMES = tuple(Outcome)
_PRIORITIES = tuple(Priority)


class EmbeddedLink(asyncio.Protocol):
    """See ``Link``.

    Args:
        client: told what happens.
        id: of its transport.
        instance: for the history of failures.
        patience: seconds without a sign of life after which the link is given up; it asks for one in time.
    """

    def __init__(self, client: Client, *, id: str, instance: str, patience: float) -> None:
        self.closed = False
        self.blocked_by = ""
        self.max_body = 0
        self._client, self._id, self._instance = client, id, instance
        self._tick_seconds = patience / _SILENT_TICKS
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._writer: FrameWriter
        self._reader = FrameReader(BEFORE_WELCOME)
        self._number = 0
        self._confirms: dict[int, asyncio.Future[Outcome]] = {}
        self._asked: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self._welcome: asyncio.Future[None] = self._loop.create_future()
        self._room: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._silent_ticks = 0
        self._tick: asyncio.TimerHandle | None = None
        self._leaving = False

    async def welcomed(self) -> None:
        """
        Raises:
            ConnectionLost: the broker did not want it.
        """
        await asyncio.shield(self._welcome)

    # The link, as its client uses it.

    @property
    def congested(self) -> bool:
        return self._writer.congested

    async def wait_room(self) -> None:
        if self.closed:
            raise ConnectionLost("the link is gone")
        if not self._writer.congested:
            return
        # What was written in this very turn leaves in the next, and then nobody would be told.
        await asyncio.sleep(0)
        if self._writer.congested:
            await asyncio.shield(self._room)

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
    ) -> asyncio.Future[Outcome]:
        self._number += 1
        confirm: asyncio.Future[Outcome] = self._loop.create_future()
        self._confirms[self._number] = confirm
        number = self._number
        self._writer.write(Word.PUBLISH, number, exchange, key, body, priority, content_type, headers, message_id, expires, delay)
        return confirm

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
        if self._writer.waiting > _MOST_POSTED:
            return False
        self._writer.write(Word.PUBLISH, 0, exchange, key, body, priority, content_type, headers, None, expires, None)
        return True

    def ask(self, verb: Verb, *arguments: Any) -> Awaitable[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            answer.set_exception(ConnectionLost("the link is gone"))
        else:
            if verb is Verb.CANCEL:
                # What was acknowledged before must not be given back with the rest.
                self._writer.flush()
            self._number += 1
            self._asked[self._number] = verb, answer
            self._writer.write(Word.ASK, self._number, verb, arguments)
        return answer

    def ack(self, tag: int) -> None:
        self._writer.gather(Word.ACK, tag)

    def release(self, tag: int) -> None:
        self._writer.gather(Word.RELEASE, tag)

    def abort(self) -> None:
        self._leaving = True
        self._end("given up")
        self._transport.abort()

    async def aclose(self) -> None:
        if not self._leaving:
            self._leaving = True
            self._writer.flush()
            if not self.closed:
                # The broker reads to the end, confirms what it took, and closes.
                self._transport.write_eof()
        await asyncio.wait([self._gone], timeout=_LEAVE)
        self.abort()

    # The protocol, as the event loop drives it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's by class, only by what they do.
        self._transport = cast(asyncio.Transport, transport)
        self._writer = FrameWriter(self._transport)
        self._writer.write(Word.HELLO, VERSION, self._id, self._instance)
        self._tick = self._loop.call_later(self._tick_seconds, self._listen)

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        try:
            self._reader.feed(data)
            while not self.closed and (words := self._reader.next()) is not None:
                self._hear(words)
        except (InvalidMessage, TypeError, ValueError, LookupError) as error:
            self._give_up(f"the broker sent what is not understood: {error}")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up(f"the broker closed the link{f': {error}' if error else ''}")
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self._writer.set_full(True)

    def resume_writing(self) -> None:
        self._writer.set_full(False)
        room, self._room = self._room, self._loop.create_future()
        room.set_result(None)

    def _hear(self, words: list[Any]) -> None:
        match words:
            case [Word.DELIVER, consumer, tag, attempt, exchange, key, body, content_type, priority, message_id, headers]:
                message = Published(
                    exchange, key, body, content_type, _PRIORITIES[priority], message_id, headers or {}, None, None
                )
                self._client.delivered(self, consumer, tag, attempt, message)
            case [Word.CONFIRM, *confirmed]:
                for number, outcome in zip(confirmed[::2], confirmed[1::2], strict=True):
                    confirm = self._confirms.pop(number, None)
                    if confirm is not None and not confirm.done():
                        confirm.set_result(_OUTCOMES[outcome])
            case [Word.ANSWER, number, value]:
                verb, answer = self._asked.pop(number, (0, None))
                if answer is not None and not answer.done():
                    answer.set_result(to_letters(value) if verb == Verb.DEAD_LETTERS else value)
            case [Word.REFUSED, number, kind, facts]:
                _, answer = self._asked.pop(number, (0, None))
                if answer is not None and not answer.done():
                    answer.set_exception(refused(kind, facts))
            case [Word.CANCELLED, consumer]:
                self._client.cancelled(self, consumer)
            case [Word.BLOCKED, reason]:
                self.blocked_by = reason
                self._client.blocked(self, reason)
            case [Word.WELCOME, int(), int(max_body)]:
                self.max_body = max_body
                self._reader.limit = frame_limit(max_body)
                if not self._welcome.done():
                    self._welcome.set_result(None)
            case _:
                raise InvalidMessage(f"unknown word {words[0]!r:.20}")

    def _listen(self) -> None:
        """Counts turns of the loop rather than seconds: a process that was busy itself has heard nothing either."""
        self._tick = None
        if self._silent_ticks >= _SILENT_TICKS:
            self._give_up("no sign of life from the broker")
            return
        if self._silent_ticks:
            self._writer.write(Word.ASK, 0, Verb.PING, ())
        self._silent_ticks += 1
        self._tick = self._loop.call_later(self._tick_seconds, self._listen)

    def _give_up(self, reason: str) -> None:
        if not self.closed:
            self._end(reason)
            self._transport.abort()
            if not self._leaving:
                self._client.lost(self, reason)

    def _end(self, reason: str) -> None:
        self.closed = True
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        waiting: list[asyncio.Future[Any]] = [
            self._welcome,
            self._room,
            *self._confirms.values(),
            *(answer for _, answer in self._asked.values()),
        ]
        self._confirms.clear()
        self._asked.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionLost(f"the link broke: {reason}"))
                # Not all of them have somebody waiting.
                future.exception()
