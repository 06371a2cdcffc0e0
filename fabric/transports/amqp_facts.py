"""What an examination of RabbitMQ asks for, and what it saw."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fabric.transports.base import QueueSpec
from fabric.transports.topology import Topology

COORDINATOR = "coordinator"
"""The service, and so its user, that keeps the journal."""


class Outcome(enum.StrEnum):
    """``REFUSED``: not permitted. ``CONFLICT``: there with other properties. ``MISSING``: not there. ``SKIPPED``: not tried."""

    DONE = "done"
    REFUSED = "refused"
    CONFLICT = "conflict"
    MISSING = "missing"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One thing that was tried.

    Attributes:
        doing: for people: ``publish to 'fabric.rpc'``.
        needs: the permission that it takes: ``write on fabric.rpc``.
        outcome: what came of it.
        said: the broker's words, if it did not.
    """

    doing: str
    needs: str
    outcome: Outcome
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """A durable queue of the fleet as it is on the broker.

    Attributes:
        fits: whether consuming it will find it as it is expected.
        messages, consumers: now; 0 where it is missing.
        dead: messages in its dead-letter queue.
        former: messages in the queue that the group had before it was ordered, or when it was; None where there is none.
    """

    name: str
    fits: Trial
    messages: int = 0
    consumers: int = 0
    dead: int = 0
    former: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the hubs of a fleet, or of one service, will ask of the broker.

    Attributes:
        topology: the names.
        service: whose permissions are tried, with keys and queue names of its own; "" tries those of any.
        patterns: the topics that ``service`` subscribes to; None where nobody knows them.
        broadcasts: whether it listens to broadcasts.
        queues: the fleet's durable queues, to be compared.
        message_bytes: the largest message.
    """

    topology: Topology
    service: str = ""
    patterns: tuple[str, ...] | None = None
    broadcasts: bool = True
    queues: tuple[QueueSpec, ...] = ()
    message_bytes: int

    @property
    def journal(self) -> bool:
        """Whether the coordinators' journal is of concern."""
        return self.service in ("", COORDINATOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen. Durations in seconds.

    Attributes:
        product, version, cluster: as the broker says.
        channel_max, frame_max: limits of a connection; 0 is none.
        opened_in: for one connection, to its end.
        pings: of some round trips.
        alarm: why it takes no publishes now; None if it does.
        exchanges: of the topology, each compared with what a hub declares.
        trials: of what needs permissions.
        impersonation: publishing as somebody else, which should be refused.
        message: of the largest size.
        queues: of the fleet.
        journal: the stream of the coordinators; where there is none, one that was made to try. None: not looked at.
        left: names that could not be removed again.
    """

    product: str
    version: str
    cluster: str
    channel_max: int
    frame_max: int
    opened_in: float
    pings: tuple[float, ...]
    alarm: str | None
    exchanges: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    impersonation: Trial
    message: Trial
    queues: tuple[QueueFacts, ...]
    left: tuple[str, ...]
    journal: Trial | None = None
