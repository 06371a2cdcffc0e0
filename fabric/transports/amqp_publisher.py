"""Publishing: many confirms under way at once, returns tied to their publish, nothing stale after a reconnect."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiormq.channel import Channel

from fabric.errors import FabricError, NotSent, PayloadTooLarge, TransportClosed
from fabric.tasks import Tasks
from fabric.transports import amqp_frames as frames
from fabric.transports.amqp_confirms import Confirms, Fences, Sending
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.base import Told
from fabric.transports.headers import check_key, checked_headers
from fabric.wire.message import Priority

_log = logging.getLogger("fabric.transports.amqp")

MESSAGE_ID = "x-fabric-message-id"
ATTEMPT_MARK = "~"
"""Begins the AMQP message id that we give each sending, to tell it from one that somebody means."""

_MOST_PREPARED = 4096


class _Outlet:
    """One channel to publish on, what is under way on it, and its prepared method frames."""

    def __init__(self, link: Link, channel: Channel, lane: Confirms) -> None:
        self.link, self.lane, self.number = link, lane, channel.number
        self._methods: dict[tuple[str, str, bool], bytes] = {}

    def write(self, exchange: str, key: str, mandatory: bool, properties: bytes, body: bytes) -> None:
        place = exchange, key, mandatory
        method = self._methods.get(place)
        if method is None:
            if len(self._methods) >= _MOST_PREPARED:
                self._methods.clear()
            method = self._methods[place] = frames.publish_method(self.number, exchange, key, mandatory=mandatory)
        self.link.wire.write(frames.publish(method, self.number, self.link.frame_max, properties, body))


async def _closed(lane: Confirms, link: Link) -> bool:
    """Until the channel of ``lane`` is gone: True, or ``link`` is: False."""
    waits: set[asyncio.Future[Any]] = {lane.closed, link.lost}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if link.lost.done():
        return False
    _log.warning("the broker closed a publishing channel: %s", lane.closed.result())
    return True


def _settle(done: asyncio.Future[None], error: FabricError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


class Publisher:
    """Sends on whatever link there is now. ``attach`` gives it one, ``detach`` takes it away."""

    def __init__(self, settings: AmqpSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._id_begin, self._count = f"{ATTEMPT_MARK}{os.urandom(8).hex()}-".encode(), itertools.count(1)
        self._tasks = Tasks("amqp publisher")
        self._confirmed: _Outlet | None = None
        self._fenced: _Outlet | None = None
        self._posts: _Outlet | None = None
        self._link: Link | None = None
        self._live = False
        self._open = asyncio.Event()
        self._closed = False
        self._waiting = 0
        self._waiting_bytes = 0
        self._prepared: dict[tuple[str, int], bytes] = {}
        self._expiring: dict[tuple[str, int], frames.Prepared] = {}

    # -- the link -------------------------------------------------------------------------------------------------

    async def attach(self, link: Link) -> None:
        """Open the channels on ``link``. Nothing is sent before ``resume``.

        Raises:
            ConnectionLost: not opened.
        """
        self._link = link
        await self._open_confirmed(link)
        await self._open_fenced(link)
        await self._open_posts(link)
        self._tasks.start(self._keep(link, self._keep_confirmed), "keep confirmed")
        self._tasks.start(self._keep(link, self._keep_fenced), "keep fenced")
        self._tasks.start(self._keep(link, self._keep_posts), "keep posts")

    def resume(self) -> None:
        """Let everybody send on what was attached."""
        self._live = True
        self.refresh()

    def refresh(self) -> None:
        """Let go on who waits, if the link takes publishes now."""
        if self._usable():
            self._open.set()
        else:
            self._open.clear()

    def _usable(self) -> bool:
        link = self._link
        if not self._live or link is None or link.blocked is not None or link.wire.paused:
            return False
        confirmed, fenced = self._confirmed, self._fenced
        return confirmed is not None and fenced is not None and not confirmed.lane.is_closed and not fenced.lane.is_closed

    async def _open_confirmed(self, link: Link) -> None:
        lane = Confirms()
        self._confirmed = _Outlet(link, await link.channel(lane, confirms=True), lane)

    async def _open_fenced(self, link: Link) -> None:
        lane = Fences(lambda: link.wire.write(frames.qos(channel.number)))
        channel = await link.channel(lane)
        self._fenced = _Outlet(link, channel, lane)

    async def _open_posts(self, link: Link) -> None:
        lane = Confirms()
        self._posts = _Outlet(link, await link.channel(lane), lane)

    async def _keep_confirmed(self, link: Link) -> None:
        while self._confirmed is not None and await _closed(self._confirmed.lane, link):
            self.refresh()
            await self._open_confirmed(link)
            self.refresh()

    async def _keep_fenced(self, link: Link) -> None:
        while self._fenced is not None and await _closed(self._fenced.lane, link):
            self.refresh()
            await self._open_fenced(link)
            self.refresh()

    async def _keep_posts(self, link: Link) -> None:
        while self._posts is not None and await _closed(self._posts.lane, link):
            await self._open_posts(link)

    async def _keep(self, link: Link, keep: Callable[[Link], Awaitable[None]]) -> None:
        """A channel that the broker closed, for what one publish asked, is replaced for all others."""
        try:
            await keep(link)
        except FabricError as error:
            await link.abort(f"a publishing channel could not be opened again: {error}")

    def detach(self, reason: str) -> None:
        """What is under way fails: nobody knows whether it arrived. What waits goes on waiting for the next link."""
        for outlet in (self._confirmed, self._fenced):
            if outlet is not None:
                outlet.lane.lose(reason)
        self._live = False
        self._link = self._confirmed = self._fenced = self._posts = None
        self._open.clear()

    async def aclose(self) -> None:
        self._closed = True
        self.detach("closed by us")
        self._open.set()
        await self._tasks.aclose()

    # -- sending --------------------------------------------------------------------------------------------------

    async def send(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        timeout: float,
        priority: Priority,
        content_type: str,
        headers: Mapping[str, Any] | None,
        message_id: str | None,
        expires: float | None,
        mandatory: bool,
        persistent: bool,
        answered: bool = False,
        own_headers: Mapping[str, Any] | None = None,
    ) -> None:
        """As ``Transport.send``. ``own_headers`` are ours, whose names are reserved."""
        self._check(key, body)
        table = self._table(headers, message_id, own_headers)
        due = self._loop.time() + timeout
        if not self._usable():
            await self._wait_open(due, len(body))
        if self._closed:
            raise TransportClosed("the transport is closed")
        id = self._next_id()
        properties = frames.properties(
            content_type=content_type,
            persistent=persistent,
            priority=priority,
            user_id=self._settings.vouched_user,
            headers=table,
            expires=expires,
            message_id=id.decode(),
        )
        done: asyncio.Future[None] = self._loop.create_future()
        sending = Sending(partial(_settle, done), exchange, key, id, timeout, due)
        self._write(sending, properties, body, mandatory=mandatory, answered=answered)
        try:
            await done
        finally:
            sending.forget()

    def submit(
        self,
        exchange: str,
        key: str,
        body: bytes,
        told: Told,
        *,
        timeout: float,
        priority: Priority,
        content_type: str,
        answered: bool,
    ) -> bool:
        """As ``Transport.submit``."""
        self._check_body(body)
        if not self._usable():
            return False
        prepared = self._expiring.get((content_type, priority))
        if prepared is None:
            prepared = frames.Prepared(content_type=content_type, priority=priority, user_id=self._settings.vouched_user)
            if len(self._expiring) < _MOST_PREPARED:
                self._expiring[content_type, priority] = prepared
        id = self._next_id()
        sending = Sending(told, exchange, key, id, timeout, self._loop.time() + timeout)
        self._write(sending, prepared.filled(timeout, id), body, mandatory=True, answered=answered)
        return True

    def _next_id(self) -> bytes:
        return b"%b%x" % (self._id_begin, next(self._count))

    def _write(self, sending: Sending, properties: bytes, body: bytes, *, mandatory: bool, answered: bool) -> None:
        outlet = self._fenced if answered and mandatory else self._confirmed
        assert outlet is not None
        outlet.write(sending.exchange, sending.key, mandatory, properties, body)
        outlet.lane.add(sending)

    def post(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        priority: Priority,
        content_type: str,
        headers: Mapping[str, Any] | None,
        expires: float | None,
    ) -> bool:
        """As ``Transport.post``."""
        self._check(key, body)
        table = self._table(headers, None, None)
        outlet, link = self._posts, self._link
        if outlet is None or link is None or link.blocked is not None or not self._live:
            return False
        if outlet.lane.is_closed or link.lost.done() or link.wire.holds_over(self._settings.post_buffer):
            return False
        if table is None and expires is None:
            place = content_type, int(priority)
            properties = self._prepared.get(place)
            if properties is None:
                properties = self._properties(priority, content_type, None, None)
                if len(self._prepared) < _MOST_PREPARED:
                    self._prepared[place] = properties
        else:
            properties = self._properties(priority, content_type, table, expires)
        outlet.write(exchange, key, False, properties, body)
        return True

    def _properties(self, priority: Priority, content_type: str, table: bytes | None, expires: float | None) -> bytes:
        return frames.properties(
            content_type=content_type,
            persistent=False,
            priority=priority,
            user_id=self._settings.vouched_user,
            headers=table,
            expires=expires,
        )

    def _check(self, key: str, body: bytes) -> None:
        self._check_body(body)
        check_key(key)

    def _check_body(self, body: bytes) -> None:
        if self._closed:
            raise TransportClosed("the transport is closed")
        if len(body) > self._settings.max_body:
            raise PayloadTooLarge(len(body), self._settings.max_body)

    def _table(
        self, headers: Mapping[str, Any] | None, message_id: str | None, own_headers: Mapping[str, Any] | None
    ) -> bytes | None:
        if not headers and message_id is None and own_headers is None:
            return None
        values = checked_headers(headers) if headers else {}
        if message_id is not None:
            values[MESSAGE_ID] = message_id
        if own_headers:
            values.update(own_headers)
        return frames.table(values)

    async def _wait_open(self, deadline: float, size: int) -> None:
        """Until the link takes publishes; in bounds of number, bytes and time."""
        if self._waiting >= self._settings.max_waiting or self._waiting_bytes + size > self._settings.max_waiting_bytes:
            raise NotSent(f"the link is {self._trouble()}, and {self._waiting} messages wait for it already")
        self._waiting += 1
        self._waiting_bytes += size
        try:
            async with asyncio.timeout_at(deadline):
                while not self._closed and not self._usable():
                    self.refresh()
                    await self._open.wait()
        except TimeoutError as error:
            raise NotSent(f"the link was {self._trouble()} until its time was up") from error
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size

    def _trouble(self) -> str:
        link = self._link
        if link is None:
            return "down"
        if link.blocked is not None:
            return f"blocked by the broker ({link.blocked})"
        return "too slow" if link.wire.paused else "being restored"
