"""The instances of the fleet: what they report, their attempts, and how long each has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from fabric.health import HealthStatus
from fabric.startup.events import (
    Action,
    Command,
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
from fabric.startup.record import REST, Cause, Failure, Instance, Phase, ServiceRecord, ServiceState
from fabric.startup.timers import Timers

Report = InstanceJoined | CommandAccepted | ServiceStarted | ServiceFailed | Vote | ServiceStopped

_WAITS_FOR_START = (Phase.STARTING, Phase.PAUSING, Phase.DUE, Phase.FAILED, Phase.PRESENT)
_KEPT_FAILURES = 20


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


class Roster:
    """Turns reports into the phases of instances, and launches and retries them.

    Args:
        world: shared with the engine.
        changed: called after each change of an instance.
        requeue: called when a service has instances that are due for another attempt.
        deposed: called with the epoch of another leader that a report proves.
    """

    def __init__(
        self,
        world: World,
        *,
        changed: Callable[[ServiceRecord], None],
        requeue: Callable[[ServiceRecord], None],
        deposed: Callable[[int], None],
    ) -> None:
        self._world, self._changed, self._requeue, self._deposed = world, changed, requeue, deposed

    # ------------------------------------------------------------ reports

    def joined(self, event: InstanceJoined) -> None:
        record, place = self._hear(event)
        if record is None or place is None:
            return
        launched = record.state in (ServiceState.STARTING, ServiceState.READY, ServiceState.UNREADY)
        if place.phase is Phase.STARTING:
            # It joined after the command went out, or is a new process for the same attempt.
            self._command(record, place, place.attempt)
        elif place.phase is Phase.PRESENT and launched and not self._world.ended:
            self._begin(record, place)
        elif place.phase is Phase.FAILED and not self._world.ended:
            # Somebody started it again, so it deserves another attempt though its own are used up.
            place.phase = Phase.DUE
            self._when_due(record, place)

    def accepted(self, event: CommandAccepted) -> None:
        _, place = self._hear(event)
        if place is not None and event.attempt >= place.attempt:
            place.accepted = True

    def started(self, event: ServiceStarted) -> None:
        record, place = self._hear(event)
        if record is None or place is None or event.attempt < place.attempt:
            return
        self._is_up(record, place)

    def failed(self, event: ServiceFailed) -> None:
        record, place = self._hear(event)
        if record is None or place is None or event.attempt < place.attempt:
            return
        if place.phase in (Phase.STARTING, Phase.UP):
            self.fail(record, place, Cause.RAISED, event.reason, code=event.code)

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
            if place.phase in _WAITS_FOR_START:
                self._is_up(record, place)
                return
        self._readiness(record, place)

    def stopped(self, event: ServiceStopped) -> None:
        record, place = self._hear(event)
        if record is None or place is None or event.attempt < place.attempt:
            return
        place.gone = True
        if record.state is ServiceState.STOPPING:
            self._is_stopped(record, place)
        elif place.phase in (Phase.STARTING, Phase.UP):
            self.fail(record, place, Cause.LOST, "it stopped without being told to")

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
                    self._is_stopped(record, place)
        elif event.kind is CommandKind.START:
            for place in list(record.instances.values()):
                if place.phase is Phase.STARTING and event.instance in (None, place.id):
                    self.fail(record, place, Cause.UNREACHABLE, f"the command could not be handed over: {event.reason}")

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
        place = self._place(record, event.instance)
        reborn = place.phase is Phase.UP and -1 < place.incarnation < event.incarnation
        place.hear(event.incarnation, event.sequence)
        if reborn:
            self.fail(record, place, Cause.LOST, "its process was replaced by another one")
        return record, place

    def _place(self, record: ServiceRecord, instance: str) -> Instance:
        """The record of an instance, made when it is heard of first.

        A new id takes over one of the places that have not been heard of, or else one that is down: an instance that came
        back under another name. It inherits attempts and deadlines.
        """
        known = record.instances.get(instance)
        if known is not None:
            return known
        made = Instance(instance, Phase.PRESENT)
        old = record.instances.get(REST)
        if old is None and len(record.instances) >= record.definition.instances:
            down = [place for place in record.instances.values() if place.phase not in (Phase.STARTING, Phase.UP, Phase.DONE)]
            old = min(down, key=lambda place: place.id, default=None)
        if old is not None:
            made.phase, made.attempt, made.failures = old.phase, old.attempt, old.failures
            for kind in ("attempt", "retry"):
                at = self._world.timers.get((kind, record.name, old.id))
                if at is not None:
                    self._world.timers.set((kind, record.name, instance), at)
            old.weight -= 1
            if not old.weight:
                self.forget(record, old)
                del record.instances[old.id]
        record.instances[instance] = made
        return made

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
        place = self._place(record, instance)
        place.gone = True
        place.buried = max(place.buried, place.incarnation if incarnation is None else incarnation)
        place.void()
        if record.state is ServiceState.STOPPING:
            self._is_stopped(record, place)
        elif code == 0 and record.job:
            self._done(record, place)
        elif place.phase in (Phase.STARTING, Phase.UP):
            early = code == 0 and not place.was_ready
            self.fail(record, place, cause, f"{reason} before it was ready" if early else reason, code=code, tail=tail)
        elif place.phase is Phase.PRESENT:
            del record.instances[place.id]

    # ------------------------------------------------------------ phases

    def _is_up(self, record: ServiceRecord, place: Instance) -> None:
        if place.phase in _WAITS_FOR_START:
            self._world.timers.cancel(("retry", record.name, place.id))
            place.phase = Phase.UP
            if self._world.timers.get(("attempt", record.name, place.id)) is None:
                self._limit(record, place)
        self._readiness(record, place)

    def _readiness(self, record: ServiceRecord, place: Instance) -> None:
        """An instance's vote or phase may have changed whether it is ready."""
        world = self._world
        ready = place.is_ready(world.now, world.epoch, checked=record.checked)
        if ready and place.ready_since is None:
            place.ready_since, place.was_ready = world.now, True
            world.timers.cancel(("attempt", record.name, place.id))
        elif not ready and place.ready_since is not None:
            place.ready_since = None
            self._limit(record, place)
        self._changed(record)

    def _done(self, record: ServiceRecord, place: Instance) -> None:
        self.forget(record, place)
        place.phase = Phase.DONE
        self._changed(record)

    def _is_stopped(self, record: ServiceRecord, place: Instance) -> None:
        self.forget(record, place)
        place.gone, place.phase, place.ready_since = True, Phase.STOPPED, None
        place.void()
        self._changed(record)

    def fail(
        self,
        record: ServiceRecord,
        place: Instance,
        cause: Cause,
        reason: str,
        *,
        code: int | str | None = None,
        tail: str = "",
        limit: float | None = None,
    ) -> None:
        """An attempt of an instance has failed; it is tried again while it has attempts left."""
        world = self._world
        self.forget(record, place)
        if place.ready_since is not None and world.now - place.ready_since >= record.retry.reset_after:
            place.failures = 0
        place.failures += 1
        place.ready_since = None
        place.accepted = False
        place.void()
        failure = Failure(
            cause=cause,
            reason=reason,
            instance=place.id or None,
            attempt=place.attempt,
            at=world.now,
            code=code,
            tail=tail,
            limit=limit,
        )
        record.failures = [*record.failures[1 - _KEPT_FAILURES :], failure]
        # One that lapsed is alive and says what it lacks; starting it again would not mend that.
        again = cause is not Cause.LAPSED and place.failures < record.retry.attempts
        if again and not world.ended and record.state is not ServiceState.STOPPING:
            place.phase = Phase.PAUSING
            world.timers.set(("retry", record.name, place.id), world.now + record.retry.pause(place.failures))
        else:
            place.phase = Phase.FAILED
        self._changed(record)

    # ------------------------------------------------------------ deadlines

    def attempt_due(self, record: ServiceRecord, place: Instance) -> None:
        """An instance has not become ready, or not again, in its time."""
        limit = record.definition.timeout
        said = f"; its last vote was {place.status}" + (f": {place.said}" if place.said else "")
        if place.was_ready:
            self.fail(record, place, Cause.LAPSED, f"it was ready and then not for {limit:g} s{said}", limit=limit)
        elif place.incarnation < 0:
            reason = f"nothing was heard of it in {limit:g} s: it never joined, accepted its command or voted"
            self.fail(record, place, Cause.SILENT, reason, limit=limit)
        elif place.phase is Phase.STARTING:
            self.fail(record, place, Cause.TIMEOUT, f"its start() was not done in {limit:g} s{said}", limit=limit)
        else:
            self.fail(record, place, Cause.TIMEOUT, f"it started but was not ready in {limit:g} s{said}", limit=limit)

    def retry_due(self, record: ServiceRecord, place: Instance) -> None:
        place.phase = Phase.DUE
        self._when_due(record, place)

    def expiry_due(self, record: ServiceRecord, place: Instance) -> None:
        """A yes may have expired; a fresh one came in the meantime, as a rule."""
        if place.status is not HealthStatus.YES:
            return
        if place.expires_at > self._world.now:
            self._world.timers.set(("expiry", record.name, place.id), place.expires_at)
        else:
            place.void()
            place.said = "no vote came to replace the last one, which expired"
            self._readiness(record, place)

    def _when_due(self, record: ServiceRecord, place: Instance) -> None:
        if record.state in (ServiceState.STARTING, ServiceState.READY, ServiceState.UNREADY):
            self._begin(record, place)
        else:
            self._requeue(record)

    def _limit(self, record: ServiceRecord, place: Instance) -> None:
        self._world.timers.set(("attempt", record.name, place.id), self._world.now + record.definition.timeout)

    def forget(self, record: ServiceRecord, place: Instance) -> None:
        """Drops every deadline of an instance."""
        for kind in ("attempt", "retry", "expiry"):
            self._world.timers.cancel((kind, record.name, place.id))

    # ------------------------------------------------------------ commands

    def launch(self, record: ServiceRecord) -> None:
        """Commands the instances that are due, or else all of them."""
        due = sorted((place for place in record.instances.values() if place.phase is Phase.DUE), key=lambda place: place.id)
        if due:
            for place in due:
                self._begin(record, place)
            return
        record.attempt += 1
        record.add_rest(record.attempt)
        for place in record.instances.values():
            if place.phase in (Phase.PRESENT, Phase.FAILED, Phase.STOPPED, Phase.STARTING):
                place.phase, place.attempt, place.gone = Phase.STARTING, record.attempt, False
                place.was_ready = False
                self._limit(record, place)
        self._send(CommandKind.START, record, None, record.attempt, record.definition.timeout)

    def stop(self, record: ServiceRecord) -> None:
        """Commands all of its instances to stop; ``("stop", name)`` is due when they should have."""
        for place in record.instances.values():
            self.forget(record, place)
        self._world.timers.set(("stop", record.name, ""), self._world.now + record.definition.stop_timeout)
        self._send(CommandKind.STOP, record, None, record.attempt, record.definition.stop_timeout)

    def ask_again(self, record: ServiceRecord) -> None:
        """For a new leader: votes are void, commands under way are repeated, everyone is asked where he stands."""
        for place in sorted(record.instances.values(), key=lambda place: place.id):
            place.void()
            if place.phase is Phase.STARTING:
                self._command(record, place, place.attempt)
            if place.phase is Phase.UP:
                self._readiness(record, place)
        if record.state is ServiceState.STOPPING:
            self._send(CommandKind.STOP, record, None, record.attempt, record.definition.stop_timeout)
        elif record.instances:
            self._send(CommandKind.CHECK, record, None, record.attempt, record.definition.timeout)

    def _begin(self, record: ServiceRecord, place: Instance) -> None:
        """Another attempt of one instance."""
        record.attempt += 1
        place.phase, place.attempt, place.gone, place.was_ready = Phase.STARTING, record.attempt, False, False
        self._limit(record, place)
        self._command(record, place, record.attempt)

    def _command(self, record: ServiceRecord, place: Instance, attempt: int) -> None:
        self._send(CommandKind.START, record, None if place.id == REST else place.id, attempt, record.definition.timeout)

    def _send(self, kind: CommandKind, record: ServiceRecord, instance: str | None, attempt: int, timeout: float) -> None:
        world = self._world
        world.out.append(
            Command(
                kind=kind,
                run=world.run,
                epoch=world.epoch,
                service=record.name,
                instance=instance,
                attempt=attempt,
                timeout=timeout,
            )
        )
