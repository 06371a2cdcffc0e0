"""The two links of one epoch: one to publish on, which the broker may block, and one to consume on, which it never does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pamqp import commands

from fabric.errors import ConfigurationError, ConnectionLost, FabricError, TopologyConflict
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.base import ExchangeSpec


class Session:
    """Both links, open. If one is lost, so is the session."""

    def __init__(self, settings: AmqpSettings, publish: Link, consume: Link) -> None:
        self._settings, self.publish, self.consume = settings, publish, consume

    @classmethod
    async def open(cls, settings: AmqpSettings) -> Session:
        """Raises:
        ConnectionLost, ConfigurationError.
        """
        publish = await Link.open(settings, "publish")
        try:
            consume = await Link.open(settings, "consume")
        except BaseException:
            await publish.abort("the other link could not be opened")
            raise
        return cls(settings, publish, consume)

    @property
    def lost(self) -> bool:
        return self.publish.lost.done() or self.consume.lost.done()

    async def declare(self, exchanges: Sequence[ExchangeSpec]) -> None:
        """Declare the exchanges; who may not, uses what is there.

        Raises:
            TopologyConflict: one exists with another kind.
            ConnectionLost, ConfigurationError.
        """
        channel = await self.consume.channel()
        try:
            for spec in exchanges:
                try:
                    await self._declare(channel, spec, passive=False)
                except ConfigurationError as refused:
                    channel = await self.consume.channel()
                    try:
                        await self._declare(channel, spec, passive=True)
                    except ConnectionLost:
                        if self.lost:
                            raise
                        raise refused from None
        finally:
            await self.consume.close_channel(channel)

    async def _declare(self, channel: Any, spec: ExchangeSpec, *, passive: bool) -> None:
        await self.consume.ask(
            lambda: channel.exchange_declare(spec.name, exchange_type=spec.kind.value, durable=True, passive=passive),
            doing=f"declaring the exchange {spec.name!r}",
            name=spec.name,
        )

    async def check_name(self, exchange: str) -> None:
        """Where the broker takes our name from our certificate: that it is the one that we send under.

        Args:
            exchange: to which we may publish; nothing arrives there.

        Raises:
            ConfigurationError: it is another one.
            ConnectionLost.
        """
        if not self._settings.external:
            return
        channel = await self.publish.channel()
        properties = commands.Basic.Properties(user_id=self._settings.user)

        async def publish() -> None:
            await channel.tx_select()
            await channel.basic_publish(b"", exchange=exchange, routing_key="", properties=properties, wait=False)
            await channel.tx_rollback()

        try:
            await self.publish.ask(publish, doing="checking our name", name=exchange)
        except TopologyConflict as error:
            raise ConfigurationError(
                f"the broker knows our certificate by another name than {self._settings.user!r}, which the URL says"
                f" ({error.text}): put that into the URL, percent-encoded; its ssl_cert_login_from says which part of the"
                " certificate it takes"
            ) from error
        finally:
            await self.publish.close_channel(channel)

    async def ping(self, *, timeout: float) -> float:
        """The slower of the two, in seconds. A blocked link is not asked: the broker does not read it.

        Raises:
            ConnectionLost: no answer within ``timeout``.
        """
        links = [self.consume] if self.publish.blocked is not None else [self.consume, self.publish]
        answers = await asyncio.gather(*(link.ping(timeout=timeout) for link in links), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return max(answer for answer in answers if not isinstance(answer, BaseException))

    async def guard(self) -> str:
        """Until the session is lost. Returns why."""
        pinging = asyncio.get_running_loop().create_task(self._ping_until_silent())
        waits: set[asyncio.Future[Any]] = {self.publish.lost, self.consume.lost, pinging}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for link in (self.publish, self.consume):
                if link.lost.done():
                    return link.lost.result()
            return pinging.result()
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    async def _ping_until_silent(self) -> str:
        settings = self._settings
        while True:
            await asyncio.sleep(settings.ping_interval)
            for link in (self.publish, self.consume):
                if link.blocked is None and (reason := await _unanswered(link, settings.ping_timeout)):
                    return reason
            if self.publish.blocked is not None and self.publish.silence > 3 * max(1, settings.heartbeat):
                return f"the blocked link was silent for {self.publish.silence:.0f} s"

    async def close(self, *, timeout: float) -> None:
        """Hand over what is written and close. Never raises."""
        await asyncio.gather(self.publish.close(timeout=timeout), self.consume.close(timeout=timeout))

    async def abort(self, reason: str) -> None:
        """Never raises. Whoever is cancelled while waiting for it has let go of both links all the same."""
        self.publish.drop(reason)
        self.consume.drop(reason)
        await asyncio.gather(self.publish.abort(reason), self.consume.abort(reason))


async def _unanswered(link: Link, timeout: float) -> str:
    """Why ``link`` counts as dead, or "". One that is busy with other bytes is not, nor one that was blocked meanwhile."""
    try:
        await link.ping(timeout=timeout)
    except ConnectionLost as error:
        alive = link.silence < timeout or link.blocked is not None
        return "" if alive and not link.lost.done() else str(error)
    except FabricError as error:
        return str(error)
    return ""
