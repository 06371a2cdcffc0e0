"""How the two ends of a socket to the embedded broker talk: frames of four bytes of length and a msgpack list."""

from __future__ import annotations

import asyncio
import enum
from typing import Any

import msgpack

from fabric.errors import ConfigurationError, FabricError, InvalidMessage, NoRoute, TopologyConflict
from fabric.transports.base import DeadLetter

VERSION = 2
LENGTH = 4
BEFORE_WELCOME = 64 * 1024
"""Bytes that a frame may have before the ends know each other."""
ROOM = 1024 * 1024
"""Bytes that wait to be written before no more should be added."""


class Word(enum.IntEnum):
    """What a frame says; its first item. The rest by word:

    * HELLO version, client, instance; answered by WELCOME version, max_body
    * PUBLISH number, exchange, key, body, priority, content_type, headers, message_id, expires, delay; number 0 wants no confirm
    * CONFIRM number, outcome, number, outcome, ...
    * ASK number, verb, arguments; answered by ANSWER number, value or REFUSED number, kind, facts
    * DELIVER consumer, tag, attempt, exchange, key, body, content_type, priority, message_id, headers
    * ACK tag, tag, ... and RELEASE tag, tag, ...
    * CANCELLED consumer
    * BLOCKED reason
    """

    HELLO = 1
    WELCOME = 2
    PUBLISH = 3
    CONFIRM = 4
    ASK = 5
    ANSWER = 6
    REFUSED = 7
    DELIVER = 8
    ACK = 9
    RELEASE = 10
    CANCELLED = 11
    BLOCKED = 12


def frame_limit(max_body: int) -> int:
    """Bytes of the largest frame where bodies have up to ``max_body``: a body, its headers, or a page of dead letters."""
    return max_body + 2 * 1024 * 1024


class FrameReader:
    """Cuts what arrives into frames. Never holds more than one frame and what came with it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def next(self) -> list[Any] | None:
        """The next frame; None until more has come.

        Raises:
            InvalidMessage: longer than the limit (known from its first bytes), or not a msgpack list of plain data.
        """
        start = self._at + LENGTH
        if len(self._data) < start:
            return None
        length = int.from_bytes(self._data[self._at : start])
        if length > self.limit:
            raise InvalidMessage(f"a frame of {length} bytes is over the limit of {self.limit}")
        end = start + length
        if len(self._data) < end:
            return None
        self._at = end
        try:
            words = msgpack.unpackb(bytes(self._data[start:end]), ext_hook=_refuse_extension)
        except Exception as error:  # msgpack documents no common root for what damaged input raises
            raise InvalidMessage(f"a frame is not msgpack: {type(error).__name__}") from error
        if not isinstance(words, list) or not words:
            raise InvalidMessage("a frame is not a list")
        return words


class FrameWriter:
    """Writes all frames of one loop turn at once: a system call costs more than a frame."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pack = msgpack.Packer(use_bin_type=True).pack
        self._frames: list[bytes] = []
        self._gathered: dict[Word, list[Any]] = {}
        self._size = 0
        self._due = False
        self._full = False
        self._frozen = False
        transport.set_write_buffer_limits(high=ROOM)

    @property
    def congested(self) -> bool:
        """The reader at the other end does not keep up, or much was written in this turn."""
        return self._full or self._frozen or self._size > ROOM

    @property
    def waiting(self) -> int:
        """Bytes not yet taken by the system."""
        return self._size + self._transport.get_write_buffer_size()

    def write(self, *words: Any) -> None:
        frame = self._pack(words)
        self._frames.append(len(frame).to_bytes(LENGTH))
        self._frames.append(frame)
        self._size += LENGTH + len(frame)
        self._schedule()

    def gather(self, word: Word, *values: Any) -> None:
        """Say it with all that is gathered for ``word`` in this turn, in one frame."""
        self._gathered.setdefault(word, [word]).extend(values)
        self._schedule()

    def flush(self) -> None:
        self._due = False
        if self._frozen or self._transport.is_closing():
            return
        gathered, self._gathered = self._gathered, {}
        for words in gathered.values():
            self.write(*words)
        self._due = False
        frames, self._frames, self._size = self._frames, [], 0
        if frames:
            self._transport.write(b"".join(frames))

    def set_full(self, full: bool) -> None:
        """As the transport's flow control says."""
        self._full = full

    def freeze(self, frozen: bool) -> None:
        """Let nothing out."""
        self._frozen = frozen
        if not frozen:
            self._schedule()

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)


def refusal(error: FabricError) -> list[Any]:
    """Kind and facts of an error, for ``REFUSED``."""
    match error:
        case TopologyConflict():
            return ["conflict", [error.name, error.reason]]
        case NoRoute():
            return ["no-route", [error.exchange, error.key]]
        case _:
            return ["configuration", [str(error)]]


def refused(kind: str, facts: list[Any]) -> FabricError:
    """The reverse of ``refusal``."""
    match kind:
        case "conflict":
            return TopologyConflict(*facts)
        case "no-route":
            return NoRoute(*facts)
        case _:
            return ConfigurationError(*facts)


_LETTER = tuple(DeadLetter.__dataclass_fields__)


def from_letters(letters: list[DeadLetter]) -> list[list[Any]]:
    return [[getattr(letter, name) for name in _LETTER] for letter in letters]


def to_letters(values: list[list[Any]]) -> list[DeadLetter]:
    letters = (dict(zip(_LETTER, value, strict=True)) for value in values)
    return [DeadLetter(**letter | {"history": tuple(letter["history"])}) for letter in letters]


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")
