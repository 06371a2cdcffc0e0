"""What a hub tells those who watch it: the steps it takes, and where it stands."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol


class StepKind(enum.StrEnum):
    """CALL: a call of this hub, with all its attempts. HANDLE: a request that this process runs. PUBLISH: an event until it is
    stored. CONSUME: an event or broadcast that this process handles."""

    CALL = "call"
    HANDLE = "handle"
    PUBLISH = "publish"
    CONSUME = "consume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that takes time.

    Attributes:
        kind: what it is.
        service: whom it is for: the target of a call, the service that handles, the publisher.
        method: the method, the topic of what is published, the handler of an event.
        headers: of the message. What an observer puts into those of a CALL or a PUBLISH travels with it.
        attempt: of a HANDLE or a CONSUME, from 1.
        caller: of a HANDLE or a CONSUME: the service that sent it.
    """

    kind: StepKind
    service: str
    method: str
    headers: dict[str, Any]
    attempt: int = 1
    caller: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A number that holds now: its name and unit, what it is of, and its value."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


End = Callable[[BaseException | None], None]
"""Called once when a step has ended, with what it raised; in the task in which it began. Must not raise."""


class Observer(Protocol):
    """Watches hubs. It is called in the event loop for each step, so it must be quick, must not block and must not raise."""

    def begin(self, step: Step) -> End:
        """A step begins."""
        ...

    def watch(self, hub: str, gauges: Callable[[], Iterable[Gauge]]) -> Callable[[], None]:
        """A hub has opened; ``gauges`` may be asked for where it stands, also from another thread, until the result is called."""
        ...

    def link(self, hub: str, state: str) -> None:
        """A hub's link to the broker is in another state."""
        ...

    def progress(self, subject: str, name: str, state: str) -> None:
        """In a start-up that this process leads, a service, a gate or the run is in another state."""
        ...
