"""A client of the embedded broker that keeps no rules but the framing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

from fabric.transports.embedded_frames import LENGTH, VERSION, FrameReader, Word


class RawClient:
    """Says and hears frames; greets on entering unless told otherwise."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        self._path, self._greet = path, greet
        self._frames = FrameReader(64 * 1024 * 1024)
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path))
        if self._greet:
            self.say(Word.HELLO, VERSION, "raw", "raw")
            assert (await self.hear() or [None])[0] == Word.WELCOME
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.transport.abort()

    def say(self, *words: Any) -> None:
        frame: bytes = msgpack.packb(words)
        self.writer.write(len(frame).to_bytes(LENGTH) + frame)

    async def hear(self) -> list[Any] | None:
        """The next frame; None when the broker has closed."""
        async with asyncio.timeout(10):
            while (words := self._frames.next()) is None:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self._frames.feed(data)
            return words

    async def closed(self) -> bool:
        """Whether the broker closes, whatever it says before."""
        async with asyncio.timeout(10):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass
            return True
