"""What each version of RabbitMQ can and refuses, as far as it matters to Fabric. From the release notes and by trying."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

TESTED = ("3.10", "4.0", "4.3")
OLDEST = (3, 10)
NEWEST = (4, 3)

MiB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Of one version.

    Attributes:
        max_message: bytes of a body that it takes unless it is configured otherwise.
        quorum_priorities: levels that quorum queues order by: none, two (normal and high, 2:1), or all.
        refuses_transient: whether a queue that is neither durable nor exclusive may be refused, with 541 and the connection
            closed. 4.3.0 does by default, 4.3.6 does not.
        delivery_limit: deliveries of a message that quorum queues allow when nobody says; None is any number.
        smallest_frame: bytes of ``frame_max`` below which clients are refused.
    """

    max_message: int
    quorum_priorities: Literal["none", "two", "all"]
    refuses_transient: bool
    delivery_limit: int | None
    smallest_frame: int


def parse(version: str) -> tuple[int, int] | None:
    """Major and minor of ``4.0.5`` or ``3.13.7+rc.1``; None for what is no version."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return (int(found[1]), int(found[2])) if found else None


def may_wedge(version: str) -> bool:
    """Whether a quorum queue with a single active consumer can stop delivering for good (rabbitmq-server#17317)."""
    found = re.match(r"4\.3\.(\d{1,4})", version)
    return found is not None and int(found[1]) <= 5


def features(version: tuple[int, int]) -> Features:
    return Features(
        max_message=16 * MiB if version >= (4, 0) else 128 * MiB,
        quorum_priorities="all" if version >= (4, 3) else "two" if version >= (4, 0) else "none",
        refuses_transient=version >= (4, 3),
        delivery_limit=20 if version >= (4, 0) else None,
        smallest_frame=8192 if version >= (4, 1) else 4096,
    )
