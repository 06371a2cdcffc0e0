"""Transports to the embedded broker: a real fleet on one machine with nothing installed.

Single machine and not durable: the broker is one process, and what it holds is gone with it.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from fabric.clock import Clock, SystemClock
from fabric.errors import ConfigurationError, ConnectionLost
from fabric.transports.backoff import Backoff
from fabric.transports.embedded_link import EmbeddedLink
from fabric.transports.link import Client
from fabric.transports.linked import LinkedTransport
from fabric.transports.memory import DEFAULT_MAX_BODY
from fabric.transports.topology import Topology
from fabric.wire.message import MessageIds


class EmbeddedTransport(LinkedTransport):
    """A transport to an ``EmbeddedServer`` on this machine. See ``Transport``.

    Args:
        path: of the broker's socket.
        topology: its exchanges are declared on connecting.
        instance: written into the history of failures; random if not given.
        max_body: bytes that one message may have; the broker may allow less.
        patience: seconds without a sign of life from the broker after which the link is given up. Less notices a stopped
            broker sooner; more bears a machine that is very busy.
        backoff: between attempts to connect again.
        clock: for these waits.
        chance: for their jitter.
    """

    def __init__(
        self,
        path: str | Path,
        topology: Topology,
        *,
        instance: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
        patience: float = 4.0,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.id = MessageIds().next()
        self._path, self._instance, self._patience = str(path), instance or self.id, patience
        super().__init__(
            "embedded",
            topology,
            self._dial_socket,
            max_body=max_body,
            backoff=backoff or Backoff(),
            clock=clock or SystemClock(),
            chance=chance or random.Random(),
        )

    async def _dial_socket(self, client: Client) -> EmbeddedLink:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(
                lambda: EmbeddedLink(client, id=self.id, instance=self._instance, patience=self._patience), self._path
            )
        except PermissionError as error:
            raise ConfigurationError(f"the broker's socket {self._path} belongs to another user") from error
        except OSError as error:
            raise ConnectionLost(
                f"nobody listens on {self._path} ({error.strerror or error}): is `fabric broker` running?"
            ) from error
        try:
            await link.welcomed()
        except BaseException:
            link.abort()
            raise
        return link
