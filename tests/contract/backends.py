"""What the contract suite needs of a broker: transports on it, and the faults it must survive.

A suite test takes the ``backend`` fixture (``conftest.py``) and never asks which kind it got. What a kind can't do it
lists in ``missing`` with the reason, and the tests that need it are skipped with that reason.

Another kind is added by a module beside this one with ``def open_backend(request: pytest.FixtureRequest) ->
AbstractAsyncContextManager[Backend]``; ``conftest.py`` runs the suite on ``backend_amqp`` when that module is there. It is
called in a running loop, so a fixture that it asks ``request.getfixturevalue`` for must be synchronous.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from fabric.transports.backoff import Backoff
from fabric.transports.base import Transport
from fabric.transports.embedded import EmbeddedTransport
from fabric.transports.embedded_frames import Word
from fabric.transports.embedded_server import EmbeddedServer
from fabric.transports.memory import DEFAULT_MAX_BODY, MemoryNetwork, MemoryTransport
from fabric.transports.memory_broker import Outcome
from fabric.transports.topology import Topology
from fabric.wire.message import Priority
from tests.contract.raw_client import RawClient

_BACKOFF = Backoff(first=0.02, most=0.2)
_PATIENCE = 1.0


class Ability(enum.StrEnum):
    """What a kind of broker, or the means to harm it, may lack."""

    CUT = "cut the link of one transport"
    PAUSE = "let nothing pass on a link without closing it"
    BLOCK = "raise the memory alarm"
    DELETE_QUEUE = "delete a queue"
    RESTART = "restart the broker"
    UNREACHABLE = "make the broker unreachable"
    FOREIGN = "publish as a client that is not ours"
    DURABLE_PRIORITY = "priorities on durable queues"


class Backend(Protocol):
    """One broker, fresh or under a namespace of its own, for one test. Each method returns when it is done, within seconds."""

    @property
    def name(self) -> str:
        """The name of its transports: ``memory``, ``embedded`` or ``amqp``."""
        ...

    @property
    def topology(self) -> Topology:
        """Shared by all transports of this test and by no other test."""
        ...

    @property
    def missing(self) -> Mapping[Ability, str]:
        """What it can't do, with the reason."""
        ...

    async def transport(self, *, connect: bool = True, max_body: int | None = None) -> Transport:
        """One more transport on this broker, connected unless told otherwise; the backend closes it at the end.

        It reconnects fast enough for a test (first attempt within 0.5 s, then at most 1 s apart).
        """
        ...

    async def cut(self, transport: Transport) -> None:
        """Break its link at once; both ends notice, and a new link can be made."""
        ...

    async def pause(self, transport: Transport) -> None:
        """Let nothing more pass on its present link, in either direction, without a word to either end. New links work."""
        ...

    async def resume(self, transport: Transport) -> None:
        """End ``pause``: what was held on the link arrives if neither end has given it up."""
        ...

    async def block(self) -> None:
        """Raise the alarm in which the broker takes no publishes."""
        ...

    async def unblock(self) -> None: ...

    async def delete_queue(self, name: str) -> None:
        """Delete it, with what it holds, while it is consumed."""
        ...

    async def restart(self) -> None:
        """All links break; what is durable is there again afterwards."""
        ...

    async def go_down(self) -> None:
        """Break all links and refuse new ones, until ``come_up``."""
        ...

    async def come_up(self) -> None: ...

    async def publish_foreign(self, exchange: str, key: str, body: bytes, *, headers: Mapping[str, Any]) -> None:
        """Publish past our own checks, as another program on the broker would, and return when the broker has it."""
        ...


class MemoryBackend:
    """Harm is done through the network object."""

    name = "memory"
    missing: ClassVar[Mapping[Ability, str]] = {}

    def __init__(self, network: MemoryNetwork | None = None) -> None:
        self.network = network or MemoryNetwork(client_patience=_PATIENCE)
        self.topology = Topology("suite")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.network)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def transport(self, *, connect: bool = True, max_body: int | None = None) -> Transport:
        made = self._made(DEFAULT_MAX_BODY if max_body is None else max_body)
        self._stack.push_async_callback(made.aclose)
        if connect:
            await made.connect(timeout=5)
        return made

    async def cut(self, transport: Transport) -> None:
        self.network.cut(_known(transport))

    async def pause(self, transport: Transport) -> None:
        self.network.pause(_known(transport))

    async def resume(self, transport: Transport) -> None:
        self.network.resume(_known(transport))

    async def block(self) -> None:
        self.network.block()

    async def unblock(self) -> None:
        self.network.unblock()

    async def delete_queue(self, name: str) -> None:
        assert self.network.delete_queue(name)

    async def restart(self) -> None:
        self.network.restart()

    async def go_down(self) -> None:
        self.network.go_down()

    async def come_up(self) -> None:
        self.network.come_up()

    async def publish_foreign(self, exchange: str, key: str, body: bytes, *, headers: Mapping[str, Any]) -> None:
        self.network.broker.publish(exchange, key, body, Priority.NORMAL, "text/plain", headers, None, None, None)

    def _made(self, max_body: int) -> MemoryTransport | EmbeddedTransport:
        return MemoryTransport(self.network, self.topology, max_body=max_body, backoff=_BACKOFF)


class EmbeddedBackend(MemoryBackend):
    """The same network behind a socket, which the faults break or stop."""

    name = "embedded"

    def __init__(self, path: Path) -> None:
        self.server = EmbeddedServer(path)
        super().__init__(self.server.network)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.server)
        return self

    async def publish_foreign(self, exchange: str, key: str, body: bytes, *, headers: Mapping[str, Any]) -> None:
        async with RawClient(self.server.path) as client:
            client.say(Word.PUBLISH, 1, exchange, key, body, Priority.NORMAL, "text/plain", dict(headers), None, None, None)
            assert await client.hear() == [Word.CONFIRM, 1, Outcome.TAKEN]

    def _made(self, max_body: int) -> MemoryTransport | EmbeddedTransport:
        return EmbeddedTransport(self.server.path, self.topology, max_body=max_body, backoff=_BACKOFF, patience=_PATIENCE)


def _known(transport: Transport) -> MemoryTransport | EmbeddedTransport:
    assert isinstance(transport, MemoryTransport | EmbeddedTransport)
    return transport
