"""Asking the coordinator for a start, which it may not live to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fabric.coordination.status import FleetStatus, UpOptions
from fabric.errors import CallError, NotAllowed, RemoteError, StartupError, ValidationFailed
from fabric.hub import Hub

_PAUSE = 0.05
_ANSWER_LIMIT = 10.0


async def ask_to_start(hub: Hub, options: UpOptions, *, limit: float, look: Callable[[], None] = lambda: None) -> FleetStatus:
    """Returns what the coordinator answers, when one has the start in its journal.

    It may still be loading, stand by, or die while it is asked: then its successor is asked the same. ``options.run`` makes
    asking twice asking once.

    Args:
        limit: seconds until one has to have answered.
        look: called between two attempts; raises when asking again is of no use.

    Raises:
        RemoteError, NotAllowed, ValidationFailed: it answered that it will not.
        StartupError: there was no answer in time.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + limit
    while True:
        try:
            return await hub.call("coordinator", "up", options, returns=FleetStatus, timeout=_ANSWER_LIMIT, idempotent=True)
        except (NotAllowed, ValidationFailed):
            raise
        except CallError as error:
            if isinstance(error, RemoteError) and not error.retryable:
                raise
            look()
            if now() > deadline:
                raise StartupError(
                    f"no coordinator took the start within {limit:g} s; the last that was heard: {error}"
                ) from error
            await asyncio.sleep(_PAUSE)
