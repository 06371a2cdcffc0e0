"""Collects what a transport delivers or tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_SECONDS = 15.0


class Inbox(Generic[T]):
    """Pass ``inbox`` itself where a receiver or listener is wanted."""

    def __init__(self) -> None:
        self.all: list[T] = []
        self._read = 0
        self._came = asyncio.Event()

    def __call__(self, item: T) -> None:
        self.all.append(item)
        self._came.set()

    def __len__(self) -> int:
        return len(self.all)

    async def next(self, wanted: Callable[[T], bool] = lambda item: True, *, timeout: float = _SECONDS) -> T:
        """The next one that is ``wanted``, skipping others.

        Raises:
            TimeoutError: none came in time.
        """
        async with asyncio.timeout(timeout):
            while True:
                while self._read < len(self.all):
                    item = self.all[self._read]
                    self._read += 1
                    if wanted(item):
                        return item
                self._came.clear()
                await self._came.wait()

    async def reaches(self, count: int, *, timeout: float = _SECONDS) -> list[T]:
        """All, when there are ``count`` of them."""
        async with asyncio.timeout(timeout):
            while len(self.all) < count:
                self._came.clear()
                await self._came.wait()
        return self.all
