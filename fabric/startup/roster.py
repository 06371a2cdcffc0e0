"""What the instances of the fleet report: what is news is told from what came late or from a dead process."""

from __future__ import annotations

from collections.abc import Callable

from fabric.startup.attempts import WAITS_FOR_START, Attempts
from fabric.startup.events import (
    CommandAccepted,
    CommandKind,
    CommandLost,
    InstanceJoined,
    InstanceLost,
    ProcessExited,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    Vote,
)
from fabric.startup.record import LAUNCHED, Cause, Instance, Phase, ServiceRecord, ServiceState
from fabric.startup.world import World

Report = InstanceJoined | CommandAccepted | ServiceStarted | ServiceFailed | Vote | ServiceStopped


class Roster:
    """Turns reports into the phases of instances.

    Args:
        world: shared with the engine.
        attempts: what is done about the reports.
        deposed: called with the epoch of another leader that a report proves.
    """

    def __init__(self, world: World, attempts: Attempts, *, deposed: Callable[[int], None]) -> None:
        self._world, self._attempts, self._deposed = world, attempts, deposed

    def joined(self, event: InstanceJoined) -> None:
        record, place = self._hear(event)
        if record is None or place is None:
            return
        launched = record.state in LAUNCHED
        if record.state is ServiceState.STOPPING or record.leaving:
            return
        if place.phase is Phase.STARTING and not place.held:
            # It joined after the command went out, or is a new process for the same attempt.
            self._attempts.command(record, place, place.attempt)
        elif place.phase is Phase.PRESENT and launched and not self._world.ended:
            self._attempts.begin(record, place)
        elif place.phase is Phase.FAILED and not self._world.ended:
            # Somebody started it again, so it deserves another attempt though its own are used up.
            place.phase = Phase.DUE
            self._attempts.when_due(record, place)

    def accepted(self, event: CommandAccepted) -> None:
        _, place = self._hear(event)
        if place is not None and event.attempt >= place.attempt:
            place.accepted = True

    def started(self, event: ServiceStarted) -> None:
        record, place = self._hear(event)
        if record is None or place is None or event.attempt < place.attempt:
            return
        self._attempts.is_up(record, place)

    def failed(self, event: ServiceFailed) -> None:
        record, place = self._hear(event)
        if record is None or place is None or event.attempt < place.attempt:
            return
        if place.phase in (Phase.STARTING, Phase.UP):
            self._attempts.fail(record, place, Cause.RAISED, event.reason, code=event.code)

    def voted(self, event: Vote) -> None:
        record, place = self._hear(event)
        if record is None or place is None:
            return
        if event.epoch < self._world.epoch:
            return
        place.take(event, self._world.now)
        if place.says_yes(self._world.now, self._world.epoch):
            key = ("expiry", record.name, place.id)
            if self._world.timers.get(key) is None:
                self._world.timers.set(key, place.expires_at)
            if place.phase in WAITS_FOR_START:
                self._attempts.is_up(record, place)
                return
        self._attempts.readiness(record, place)

    def stopped(self, event: ServiceStopped) -> None:
        record, place = self._hear(event)
        if record is None or place is None or event.attempt < place.attempt:
            return
        place.gone = True
        if record.state is ServiceState.STOPPING:
            self._attempts.is_stopped(record, place)
        elif place.held:
            self._attempts.is_down(record, place)
        elif place.phase in (Phase.STARTING, Phase.UP):
            self._attempts.fail(record, place, Cause.LOST, "it stopped without being told to")

    def lost(self, event: InstanceLost) -> None:
        self._ended(event.service, event.instance, event.incarnation, Cause.LOST, event.reason)

    def exited(self, event: ProcessExited) -> None:
        killed = f"was killed by signal {-event.code}" if event.code < 0 else f"exited with code {event.code}"
        self._ended(
            event.service, event.instance, event.incarnation, Cause.EXITED, f"its process {killed}", event.code, event.tail
        )

    def command_lost(self, event: CommandLost) -> None:
        record = self._world.records.get(event.service)
        if record is None or event.attempt != record.attempt:
            return
        if event.kind is CommandKind.STOP:
            for place in list(record.instances.values()):
                if record.state is ServiceState.STOPPING:
                    self._attempts.is_stopped(record, place)
        elif event.kind is CommandKind.START:
            for place in list(record.instances.values()):
                if place.phase is Phase.STARTING and event.instance in (None, place.id):
                    self._attempts.fail(record, place, Cause.UNREACHABLE, f"the command could not be handed over: {event.reason}")

    def _hear(self, event: Report) -> tuple[ServiceRecord | None, Instance | None]:
        """Whom a report is about, if it is news; what came late or from a dead process changes nothing."""
        record = self._world.records.get(event.service)
        if record is None:
            return None, None
        if event.epoch > self._world.epoch:
            self._deposed(event.epoch)
            return None, None
        known = record.instances.get(event.instance)
        if known is not None and not known.is_news(event.incarnation, event.sequence):
            return None, None
        place = self._attempts.place_of(record, event.instance)
        reborn = place.phase is Phase.UP and -1 < place.incarnation < event.incarnation
        place.hear(event.incarnation, event.sequence)
        if reborn:
            self._attempts.fail(record, place, Cause.LOST, "its process was replaced by another one")
        return record, place

    def _ended(
        self,
        service: str,
        instance: str,
        incarnation: int | None,
        cause: Cause,
        reason: str,
        code: int | None = None,
        tail: str = "",
    ) -> None:
        """The process of an instance is gone."""
        record = self._world.records.get(service)
        if record is None:
            return
        known = record.instances.get(instance)
        if known is not None:
            stale = known.gone if incarnation is None else incarnation <= known.buried or incarnation < known.incarnation
            if stale:
                return
        place = self._attempts.place_of(record, instance)
        place.gone = True
        place.buried = max(place.buried, place.incarnation if incarnation is None else incarnation)
        place.void()
        if record.state is ServiceState.STOPPING:
            self._attempts.is_stopped(record, place)
        elif code == 0 and record.job:
            self._attempts.done(record, place)
        elif place.phase in (Phase.STARTING, Phase.UP):
            early = code == 0 and not place.was_ready
            self._attempts.fail(record, place, cause, f"{reason} before it was ready" if early else reason, code=code, tail=tail)
        elif place.phase is Phase.PRESENT:
            del record.instances[place.id]
