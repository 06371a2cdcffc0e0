"""A request under way."""

from __future__ import annotations

import asyncio
from typing import Any

from fabric.routing.outcomes import Facts
from fabric.routing.registry import Endpoint


class Pending:
    """A request that has no answer yet. It is also its own parcel in the outbox.

    Attributes:
        epoch: of the link on which the broker confirmed it; 0 until then.
    """

    __slots__ = ("deadline", "endpoint", "epoch", "facts", "future", "id", "left", "started")

    def __init__(
        self, id: str, endpoint: Endpoint, facts: Facts, future: asyncio.Future[Any], started: float, deadline: float
    ) -> None:
        self.id, self.endpoint, self.facts, self.future = id, endpoint, facts, future
        self.started, self.deadline = started, deadline
        self.epoch = 0
        self.left = False

    @property
    def wanted(self) -> bool:
        return not self.future.done()

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
