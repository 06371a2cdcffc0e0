"""What of an engine's events is written down, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabric.coordination.journal import Entry, Journal
from fabric.errors import FabricError
from fabric.health import HealthStatus
from fabric.startup.engine import Engine
from fabric.startup.events import (
    CommandAccepted,
    CommandLost,
    Event,
    InstanceJoined,
    InstanceLost,
    LeadershipTaken,
    Outcome,
    ProcessExited,
    RunRequested,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    TimerDue,
    Vote,
)
from fabric.startup.record import ServiceState

_ABOUT_A_SERVICE = (
    InstanceJoined,
    CommandAccepted,
    ServiceStarted,
    ServiceFailed,
    Vote,
    ServiceStopped,
    InstanceLost,
    ProcessExited,
    CommandLost,
)


class JournalWriter:
    """Writes each event before it is handled, except those that change nothing.

    A fleet that is up says so every few seconds, for as long as it is up. Such a yes after a yes is only held back, the
    newest of each instance, and is written in front of the next event that does change something: so the journal grows with
    what happens, not with time, and its replay ends in the same state. What is held back may be lost: a successor takes no
    vote on trust anyway, it asks everybody anew.

    Args:
        engine: returns the engine as it is before the event.
        failed: called when something could not be written, before the error is raised on.
    """

    def __init__(self, journal: Journal, engine: Callable[[], Engine], failed: Callable[[FabricError], None]) -> None:
        self._journal, self._engine, self._failed = journal, engine, failed
        self._held: dict[tuple[str, str], Entry] = {}

    async def append(self, entries: Sequence[Entry]) -> None:
        """Returns when the events are safe, or need not be.

        The engine does not know of the first of them yet when the last one is looked at, so all after one that changes something
        are written.

        Raises:
            StaleCommand: somebody else leads.
            FabricError: it is unknown whether they are safe.
        """
        engine = self._engine()
        quiet = 0
        while quiet < len(entries) and changes_nothing(engine, *entries[quiet]):
            self._hold(engine, entries[quiet])
            quiet += 1
        if quiet == len(entries):
            return
        event, now = entries[quiet]
        first = isinstance(event, RunRequested) and begins_anew(engine)
        before = [(LeadershipTaken(epoch=engine.epoch), now)] if first else self._held.values()
        written = [*before, *entries[quiet:]]
        self._held.clear()
        try:
            await self._journal.append(written, first=first)
        except FabricError as error:
            self._failed(error)
            raise

    def _hold(self, engine: Engine, entry: Entry) -> None:
        event, _ = entry
        if isinstance(event, Vote) and event.service in engine.services:
            self._held.pop((event.service, event.instance), None)
            self._held[event.service, event.instance] = entry


def begins_anew(engine: Engine) -> bool:
    """Whether a run that is asked for now takes over nothing of an earlier one."""
    return engine.plan is None or engine.outcome is Outcome.STOPPED


def changes_nothing(engine: Engine, event: Event, now: float) -> bool:
    """Whether the engine is in the same state without this event, once later ones have come.

    So it is before the first run, of services that are no part of it, and for a fleet at rest. While a run or a rolling restart
    is under way each vote may be the one that counts.
    """
    if engine.plan is None:
        return not isinstance(event, RunRequested)
    if isinstance(event, _ABOUT_A_SERVICE) and event.service not in engine.services:
        return True
    if engine.outcome is Outcome.RUNNING or (engine.roll is not None and not engine.roll.state.over):
        return False
    if isinstance(event, Vote):
        record = engine.services.get(event.service)
        place = record.instances.get(event.instance) if record is not None else None
        return (
            record is not None
            and place is not None
            and record.state is ServiceState.READY
            and event.status is HealthStatus.YES
            and event.epoch == engine.epoch
            and event.incarnation == place.incarnation
            and place.is_ready(now, engine.epoch, checked=True)
            and ("expiry", event.service, event.instance) in dict(engine.timers())
        )
    if isinstance(event, TimerDue):
        due = [key for key, at in engine.timers() if at <= now]
        return all(kind == "expiry" and _renewed(engine, name, instance, now) for kind, name, instance in due)
    return False


def _renewed(engine: Engine, name: str, instance: str, now: float) -> bool:
    record = engine.services.get(name)
    place = record.instances.get(instance) if record is not None else None
    return place is not None and place.says_yes(now, engine.epoch)
