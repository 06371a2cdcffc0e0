"""A body that was handed to a link, and how that ends."""

from __future__ import annotations

import asyncio

from fabric.errors import ConnectionLost, FabricError, NoRoute, NotSent
from fabric.transports.base import Told
from fabric.transports.memory_broker import Outcome


def failure(outcome: Outcome, exchange: str, key: str, *, mandatory: bool) -> FabricError | None:
    """What an outcome means to the sender; None: the broker has it."""
    if outcome is Outcome.NO_ROUTE and mandatory:
        return NoRoute(exchange, key)
    if outcome is Outcome.FULL:
        return NotSent(f"the broker refused it: the queue behind {key!r} is full, its reader does not keep up")
    return None


class Submission:
    """Kept by what will end it: the loop, or the outcome.

    Args:
        outcome: of ``Link.publish``, or what will be it.
        told: called in a later turn of the loop, also if the outcome is known: whoever sends in a loop must let the receivers
            run.
        timeout: seconds after which it is not known.
    """

    def __init__(self, outcome: Outcome | asyncio.Future[Outcome], told: Told, exchange: str, key: str, timeout: float) -> None:
        self._told, self._exchange, self._key = told, exchange, key
        self._ended = False
        loop = asyncio.get_running_loop()
        self._limit: asyncio.TimerHandle | None = None
        if isinstance(outcome, Outcome):
            loop.call_soon(self._end, failure(outcome, exchange, key, mandatory=True))
        else:
            self._limit = loop.call_later(timeout, self._expire)
            outcome.add_done_callback(self._confirmed)

    def _confirmed(self, outcome: asyncio.Future[Outcome]) -> None:
        if outcome.cancelled():
            self._end(ConnectionLost("the link was closed before it was confirmed"))
        elif (error := outcome.exception()) is not None:
            self._end(error if isinstance(error, FabricError) else ConnectionLost(f"not confirmed: {error!r}"))
        else:
            self._end(failure(outcome.result(), self._exchange, self._key, mandatory=True))

    def _expire(self) -> None:
        self._end(ConnectionLost("the broker did not confirm it in time: it may have arrived"))

    def _end(self, error: FabricError | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._limit is not None:
            self._limit.cancel()
        self._told(error)
