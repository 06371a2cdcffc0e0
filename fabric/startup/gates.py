"""Whether a gate holds right now, and what it waits for."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from fabric.startup.record import DOWN, Phase, ServiceRecord, Trigger
from fabric.startup.stages import StartupStage


class GateState(enum.StrEnum):
    """WAITING: the gates before are not open yet. CHECKING: closed, but it can still open. OPEN: it holds at this moment.

    SKIPPED: it does not hold and the stage said to go on all the same. FAILED: what it needs failed or did not come in
    time; it opens late if that recovers.
    """

    WAITING = "waiting"
    CHECKING = "checking"
    OPEN = "open"
    SKIPPED = "skipped"
    FAILED = "failed"

    @property
    def passable(self) -> bool:
        return self in (GateState.OPEN, GateState.SKIPPED)


class Standing(enum.StrEnum):
    """How one service stands before a gate."""

    MET = "met"
    COMING = "coming"
    LOST = "lost"


@dataclass(slots=True)
class Gate:
    """The gate of one stage in a run. It keeps no memory of votes: ``judge`` looks at what holds now.

    Attributes:
        stage: the stage that it ends.
        optional: the optional services that it waits for.
        state: by the last ``judge``.
        entered_at: when the gates before it were open for the first time.
        opened_at: when it became passable the last time.
        passed_at: when it became passable the first time.
        changes: when its state changed, what that came from, and which service was the last to be met by then.
        timed_out: the stage's time is over.
        required_at: since when everything required has been met without a break.
        standings: how each of its services stands; ``lost`` of the required ones are those that are LOST.
        stable_at: when an instance of a service will have been healthy for long enough, where that is known.
        unmet: required services that are missing.
        awaited: optional services that it still waits for.
        recheck_at: when it has to be judged again though nothing is said.
        met_last: the service that was the last to be met.
    """

    stage: StartupStage
    optional: tuple[str, ...]
    state: GateState = GateState.WAITING
    entered_at: float | None = None
    opened_at: float | None = None
    passed_at: float | None = None
    changes: list[tuple[Trigger, str]] = field(default_factory=list)
    timed_out: bool = False
    required_at: float | None = None
    standings: dict[str, Standing] = field(default_factory=dict)
    stable_at: dict[str, float] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    unmet: dict[str, None] = field(default_factory=dict)
    awaited: dict[str, None] = field(default_factory=dict)
    recheck_at: float = math.inf
    met_last: str = ""

    def needed(self, record: ServiceRecord) -> int:
        """How many instances of it have to say yes."""
        return self.stage.health_gate.instances.get(record.name, record.definition.instances)

    def counted(self, record: ServiceRecord, now: float, epoch: int) -> int:
        """How many of them count: a fresh yes of the current incarnation and epoch, in a row and for as long as asked."""
        gate = self.stage.health_gate
        return sum(
            1
            for place in record.instances.values()
            if place.phase is Phase.DONE
            or (
                place.phase is Phase.UP
                and place.says_yes(now, epoch)
                and place.streak >= gate.successes
                and place.yes_since is not None
                # Worked out as the time to look again is, or rounding could let the two miss each other.
                and now >= place.yes_since + gate.stable_for
            )
        )

    def look(self, record: ServiceRecord, now: float, epoch: int) -> None:
        """Takes note of how one of its services stands."""
        name, needed = record.name, self.needed(record)
        if self.counted(record, now, epoch) >= needed:
            standing = Standing.MET
            if self.standings.get(name) is not Standing.MET:
                self.met_last = name
        elif record.state in DOWN or (record.attempt > 0 and record.reachable() < needed):
            standing = Standing.LOST
        else:
            standing = Standing.COMING
        self.standings[name] = standing
        self.stable_at.pop(name, None)
        self.lost.discard(name)
        if standing is Standing.COMING and self.stage.health_gate.stable_for:
            times = [place.yes_since for place in record.instances.values() if place.yes_since is not None]
            later = [at + self.stage.health_gate.stable_for for at in times]
            soonest = min((at for at in later if at > now), default=math.inf)
            if soonest < math.inf:
                self.stable_at[name] = soonest
        group = self.awaited if name in self.optional else self.unmet
        if standing is Standing.MET or (group is self.awaited and (standing is Standing.LOST or record.left)):
            group.pop(name, None)
        else:
            group[name] = None
            if standing is Standing.LOST and group is self.unmet:
                self.lost.add(name)

    def judge(self, records: dict[str, ServiceRecord], now: float) -> GateState:
        """What it is now, from what was noted. Pure in the notes and ``now``; ``state`` is left to the caller."""
        self.recheck_at = min((at for name, at in self.stable_at.items() if name in self.unmet), default=math.inf)
        if self.unmet:
            self.required_at = None
            if self.timed_out or self.lost:
                return GateState.SKIPPED if self.stage.skip_on_timeout else GateState.FAILED
            return GateState.CHECKING
        if self.required_at is None:
            self.required_at = now
        if not self.timed_out:
            for name in self.awaited:
                until = self._until(records[name])
                if now < until:
                    self.recheck_at = min(self.recheck_at, until, self.stable_at.get(name, math.inf))
            if self.recheck_at != math.inf:
                return GateState.CHECKING
        return GateState.OPEN

    def waits_for(self, records: dict[str, ServiceRecord], now: float) -> tuple[str, ...]:
        """The services that it waits for at this moment, required ones first."""
        awaited = () if self.timed_out else (name for name in self.awaited if now < self._until(records[name]))
        return (*self.unmet, *awaited)

    def _until(self, record: ServiceRecord) -> float:
        """How long an optional service is waited for: its own time, from when it began or was the last one missing."""
        since = self.required_at if self.required_at is not None else math.inf
        begun = record.begun_at if record.begun_at is not None else math.inf
        return min(since, begun) + record.definition.timeout
