"""One service on the bus in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fabric.config import Settings
from fabric.dispatcher import Dispatcher
from fabric.subscriber import Subscriber
from fabric.transports.base import Consumer


class Served:
    """A service on the bus: its inbox is there, its doors are closed at first."""

    def __init__(self, dispatcher: Dispatcher, subscriber: Callable[[], Subscriber], inbox: Consumer, settings: Settings) -> None:
        self._dispatcher, self._make_subscriber, self._inbox, self._settings = dispatcher, subscriber, inbox, settings
        self._subscriber: Subscriber | None = None

    @property
    def load(self) -> int:
        """Requests running and waiting."""
        return self._dispatcher.load

    async def open_doors(self) -> None:
        """Take requests, events and broadcasts from now on."""
        if self._subscriber is None:
            self._subscriber = self._make_subscriber()
            await self._subscriber.open(self._settings.connect_timeout)
        self._dispatcher.accept(yes=True)

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse what is new, let what runs end within ``timeout`` seconds, then cancel it. Returns whether all ended."""
        limit = self._settings.drain_timeout if timeout is None else timeout
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is None:
            return await self._dispatcher.drain(limit)
        events, requests = await asyncio.gather(subscriber.drain(limit), self._dispatcher.drain(limit))
        return events and requests

    async def aclose(self) -> None:
        """Take the inbox off the bus; callers learn in one round trip."""
        await self._inbox.aclose()
