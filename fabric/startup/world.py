"""What the parts of the engine share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fabric.startup.events import Action
from fabric.startup.record import ServiceRecord
from fabric.startup.timers import Timers


@dataclass(slots=True)
class World:
    """What the parts of the engine share.

    Attributes:
        now, epoch, run: of this moment.
        records: the services by name; also those of an earlier run that are being stopped.
        timers: all deadlines.
        out: what the engine will ask for.
        ended: nothing is started any more.
    """

    epoch: int
    now: float = -math.inf
    run: str = ""
    records: dict[str, ServiceRecord] = field(default_factory=dict)
    timers: Timers = field(default_factory=Timers)
    out: list[Action] = field(default_factory=list)
    ended: bool = False
