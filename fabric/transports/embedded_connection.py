"""The embedded broker's end of one client's socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from fabric.errors import ConfigurationError, ConnectionLost, InvalidMessage, NoRoute, TopologyConflict
from fabric.transports.backlog import Held
from fabric.transports.embedded_frames import (
    BEFORE_WELCOME,
    VERSION,
    FrameReader,
    FrameWriter,
    Word,
    frame_limit,
    from_letters,
    refusal,
)
from fabric.transports.memory import MemoryNetwork
from fabric.transports.memory_session import Session, Verb

_TICK = 7.0
_MOST_SILENT_TICKS = 5


class EmbeddedConnection(asyncio.Protocol):
    """Carries the words of one client to its session and back. Whoever sends nonsense is dropped.

    A client that does not read fills its buffer once; then nothing more is delivered to it, and nothing more is read from
    it, until it reads. One from which nothing came for 35 seconds is dropped.

    Args:
        network: where its session is opened.
        max_body: bytes that a message may have.
        ended: called once, when it is gone.
    """

    def __init__(self, network: MemoryNetwork, *, max_body: int, ended: Callable[[EmbeddedConnection], None]) -> None:
        self._network, self._max_body, self._ended = network, max_body, ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._writer: FrameWriter
        self._reader = FrameReader(BEFORE_WELCOME)
        self._session: Session | None = None
        self._paused = False
        self._waits_for_room = False
        self._silent_ticks = 0
        self._tick: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """What is written reaches the client; then the socket is closed."""
        self._writer.flush()
        self._transport.close()
        self._leave()

    # The socket, as the event loop drives it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's by class, only by what they do.
        self._transport = cast(asyncio.Transport, transport)
        self._writer = FrameWriter(self._transport)
        self._tick = self._loop.call_later(_TICK, self._listen)

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        self._reader.feed(data)
        self._obey_all()

    def eof_received(self) -> bool:
        # Confirms of the last publishes are still to be written; the loop closes when they are.
        self._writer.flush()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._ended(self)

    def pause_writing(self) -> None:
        self._writer.set_full(True)
        self._check_room()

    def resume_writing(self) -> None:
        self._writer.set_full(False)
        self._regain_room()

    # The carrier, as the session drives it.

    def deliver(self, consumer: int, tag: int, held: Held) -> None:
        message = held.message
        self._writer.write(
            Word.DELIVER,
            consumer,
            tag,
            held.attempt,
            message.exchange,
            message.key,
            message.body,
            message.content_type,
            message.priority,
            message.message_id,
            message.headers or None,
        )
        self._check_room()

    def cancelled(self, consumer: int) -> None:
        self._writer.write(Word.CANCELLED, consumer)

    def blocked(self, reason: str) -> None:
        self._writer.write(Word.BLOCKED, reason)

    def sever(self, reason: str) -> None:
        self._transport.abort()
        self._leave()

    def pause(self) -> None:
        self._paused = True
        self._writer.freeze(True)
        self._transport.pause_reading()
        if self._session is not None:
            self._session.stall(True)

    def resume(self) -> None:
        self._paused = False
        self._writer.freeze(False)
        self._regain_room()

    # What the client says.

    def _obey_all(self) -> None:
        try:
            while not self._waits_for_room and not self._transport.is_closing() and (words := self._reader.next()) is not None:
                self._obey(words)
                self._check_room()
        except (InvalidMessage, TypeError, ValueError, LookupError, AttributeError, ConnectionLost):
            # A client of another version or a hostile one: there is nothing to be said to it that it would understand.
            self.sever("")

    def _obey(self, words: list[Any]) -> None:
        session = self._session
        if session is None:
            self._greet(words)
            return
        match words:
            case [
                Word.PUBLISH,
                int(number),
                str(),
                str(),
                bytes(body),
                int(),
                str(),
                dict() | None,
                str() | None,
                int() | float() | None,
                int() | float() | None,
            ]:
                if len(body) > self._max_body:
                    raise InvalidMessage("a body over the limit")
                outcome = session.publish(*words[2:])
                if number:
                    self._writer.gather(Word.CONFIRM, number, outcome)
            case [Word.ACK, *tags]:
                for tag in tags:
                    session.ack(tag)
            case [Word.RELEASE, *tags]:
                for tag in tags:
                    session.release(tag)
            case [Word.ASK, int(number), int(verb), list(arguments)]:
                try:
                    answer = session.perform(verb, arguments)
                except (TopologyConflict, NoRoute, ConfigurationError) as error:
                    self._writer.write(Word.REFUSED, number, *refusal(error))
                else:
                    self._writer.write(Word.ANSWER, number, from_letters(answer) if verb == Verb.DEAD_LETTERS else answer)
            case _:
                raise InvalidMessage(f"unknown word {words[0]!r:.20}")

    def _greet(self, words: list[Any]) -> None:
        match words:
            case [Word.HELLO, int(version), str(client), str(instance)] if version == VERSION:
                # Before the session is opened, because that may already say that publishes are blocked.
                self._writer.write(Word.WELCOME, VERSION, self._max_body)
                self._session = self._network.open(self, client=client, instance=instance)
                self._reader.limit = frame_limit(self._max_body)
            case _:
                raise InvalidMessage("it does not begin with a greeting of this version")

    # Flow.

    def _check_room(self) -> None:
        if self._writer.congested and not self._waits_for_room:
            self._waits_for_room = True
            self._transport.pause_reading()
            if self._session is not None:
                self._session.stall(True)
            # Perhaps it was only much in one turn.
            self._loop.call_soon(self._regain_room)

    def _regain_room(self) -> None:
        self._writer.flush()
        if self._paused or self._writer.congested or self._transport.is_closing():
            return
        self._waits_for_room = False
        self._transport.resume_reading()
        if self._session is not None:
            self._session.stall(False)
        self._obey_all()

    def _listen(self) -> None:
        """Counts turns of the loop rather than seconds: a broker that was busy itself has heard nothing either."""
        self._tick = None
        self._silent_ticks += 1
        if self._silent_ticks > _MOST_SILENT_TICKS:
            self.sever("no sign of life from the client")
        else:
            self._tick = self._loop.call_later(_TICK, self._listen)

    def _leave(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._session is not None:
            self._session.close()
