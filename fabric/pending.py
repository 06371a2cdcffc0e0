"""A request under way."""

from __future__ import annotations

import asyncio
from typing import Any

from fabric.routing.breaker import Breaker
from fabric.routing.outcomes import Facts
from fabric.routing.registry import Endpoint
from fabric.wire.message import Priority

Question = tuple[str, Any, Priority, dict[str, Any] | None]
"""What is asked, the same in each attempt: method, payload, priority and headers."""


class Pending:
    """A request that has no answer yet. It is also its own parcel in the outbox.

    Attributes:
        due: its deadline, in the same; infinite once that has passed.
        began: when it was handed over, in the clock's monotonic seconds.
        permit: of the instance's breaker.
        breaker, gate: the target's as a whole, if there is one, and its permit.
        epoch: of the link on which the broker confirmed it; 0 until then.
        left: it is out of this process, or may be.
    """

    __slots__ = (
        "began",
        "breaker",
        "deadline",
        "due",
        "endpoint",
        "epoch",
        "facts",
        "future",
        "gate",
        "id",
        "left",
        "permit",
        "question",
    )

    def __init__(
        self,
        id: str,
        endpoint: Endpoint,
        question: Question,
        facts: Facts,
        future: asyncio.Future[Any],
        began: float,
        permit: int,
        breaker: Breaker | None,
        gate: int,
    ) -> None:
        self.id, self.endpoint, self.question, self.facts, self.future = id, endpoint, question, facts, future
        self.began, self.permit, self.breaker, self.gate = began, permit, breaker, gate
        self.deadline = self.due = facts.deadline
        self.epoch = 0
        self.left = False
