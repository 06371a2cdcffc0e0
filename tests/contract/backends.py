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
from typing import Any, Protocol

from fabric.transports.base import Transport
from fabric.transports.topology import Topology


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
