"""The attempts to start each instance: when one begins, how long it has, when it is tried again, and its end."""

from __future__ import annotations

from collections.abc import Callable

from fabric.health import HealthStatus
from fabric.startup.events import Command, CommandKind
from fabric.startup.record import LAUNCHED, REST, Cause, Failure, Instance, Phase, ServiceRecord, ServiceState
from fabric.startup.world import World

WAITS_FOR_START = (Phase.STARTING, Phase.PAUSING, Phase.DUE, Phase.FAILED, Phase.PRESENT, Phase.HELD)
_KEPT_FAILURES = 20


class Attempts:
    """Launches, retries, holds and stops instances, and keeps their deadlines.

    Args:
        world: shared with the engine.
        changed: called after each change of an instance.
        requeue: called when a service has instances that are due for another attempt.
    """

    def __init__(
        self,
        world: World,
        *,
        changed: Callable[[ServiceRecord], None],
        requeue: Callable[[ServiceRecord], None],
    ) -> None:
        self._world, self._changed, self._requeue = world, changed, requeue

    def place_of(self, record: ServiceRecord, instance: str) -> Instance:
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
            down = [
                place
                for place in record.instances.values()
                if not place.held and place.phase not in (Phase.STARTING, Phase.UP, Phase.DONE)
            ]
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

    def is_up(self, record: ServiceRecord, place: Instance) -> None:
        if place.phase in WAITS_FOR_START:
            self._world.timers.cancel(("retry", record.name, place.id))
            place.phase = Phase.UP
            if self._world.timers.get(("attempt", record.name, place.id)) is None:
                self._limit(record, place)
        self.readiness(record, place)

    def readiness(self, record: ServiceRecord, place: Instance) -> None:
        """An instance's vote or phase may have changed whether it is ready."""
        world = self._world
        ready = place.is_ready(world.now, world.epoch, checked=record.checked)
        if record.job:
            # A job has until its timeout to end, whatever it says of its health.
            pass
        elif ready and place.ready_since is None:
            place.ready_since, place.was_ready = world.now, True
            world.timers.cancel(("attempt", record.name, place.id))
        elif not ready and place.ready_since is not None:
            place.ready_since = None
            self._limit(record, place)
        self._changed(record)

    def done(self, record: ServiceRecord, place: Instance) -> None:
        self.forget(record, place)
        place.phase = Phase.DONE
        self._changed(record)

    def is_stopped(self, record: ServiceRecord, place: Instance) -> None:
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
        place.failures += 0 if place.held else 1
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
        if place.held:
            self.is_down(record, place)
            return
        # One that lapsed is alive and says what it lacks; starting it again would not mend that.
        again = cause is not Cause.LAPSED and place.failures < record.retry.attempts
        if again and not world.ended and not record.leaving and record.state is not ServiceState.STOPPING:
            place.phase = Phase.PAUSING
            world.timers.set(("retry", record.name, place.id), world.now + record.retry.pause(place.failures))
        else:
            place.phase = Phase.FAILED
        self._changed(record)

    # ------------------------------------------------------------ deadlines

    def due(self, kind: str, record: ServiceRecord, place: Instance) -> None:
        """A deadline of an instance has come: of its attempt, of the pause before the next one, or of its last yes."""
        {"attempt": self._attempt_due, "retry": self._retry_due, "expiry": self._expiry_due}[kind](record, place)

    def _attempt_due(self, record: ServiceRecord, place: Instance) -> None:
        """An instance has not become ready, or not again, in its time."""
        limit = record.definition.timeout
        said = f"; its last vote was {place.status}" + (f": {place.said}" if place.said else "")
        if place.was_ready:
            self.fail(record, place, Cause.LAPSED, f"it was ready and then not for {limit:g} s{said}", limit=limit)
        elif place.incarnation < 0:
            reason = f"nothing was heard of it in {limit:g} s: it never joined, accepted its command or voted"
            self.fail(record, place, Cause.SILENT, reason, limit=limit)
        elif record.job:
            self.fail(record, place, Cause.TIMEOUT, f"it did not end in {limit:g} s", limit=limit)
        elif place.phase is Phase.STARTING:
            self.fail(record, place, Cause.TIMEOUT, f"its start() was not done in {limit:g} s{said}", limit=limit)
        else:
            self.fail(record, place, Cause.TIMEOUT, f"it started but was not ready in {limit:g} s{said}", limit=limit)

    def _retry_due(self, record: ServiceRecord, place: Instance) -> None:
        place.phase = Phase.DUE
        self.when_due(record, place)

    def _expiry_due(self, record: ServiceRecord, place: Instance) -> None:
        """A yes may have expired; a fresh one came in the meantime, as a rule."""
        if place.status is not HealthStatus.YES:
            return
        if place.expires_at > self._world.now:
            self._world.timers.set(("expiry", record.name, place.id), place.expires_at)
        else:
            place.void()
            place.said = "no vote came to replace the last one, which expired"
            self.readiness(record, place)

    def when_due(self, record: ServiceRecord, place: Instance) -> None:
        if record.state in LAUNCHED:
            self.begin(record, place)
        else:
            self._requeue(record)

    def adopt(self, record: ServiceRecord, place: Instance) -> None:
        """An instance that is up or starting goes over into a new run, with all the time that this one gives it."""
        place.failures = 0
        if place.phase is Phase.STARTING or record.job or place.ready_since is None:
            self._limit(record, place)

    def _limit(self, record: ServiceRecord, place: Instance) -> None:
        if place.held:
            return
        self._world.timers.set(("attempt", record.name, place.id), self._world.now + record.definition.timeout)

    def forget(self, record: ServiceRecord, place: Instance) -> None:
        """Drops every deadline of an instance."""
        for kind in ("attempt", "retry", "expiry"):
            self._world.timers.cancel((kind, record.name, place.id))

    # ------------------------------------------------------------ commands

    def launch(self, record: ServiceRecord) -> None:
        """Commands the instances that are due, or else all of them."""
        if any(place.phase is Phase.DUE for place in record.instances.values()):
            self._begin_due(record)
            return
        record.attempt += 1
        record.add_rest(record.attempt)
        for place in record.instances.values():
            if place.phase in (Phase.PRESENT, Phase.FAILED, Phase.STOPPED, Phase.STARTING):
                place.phase, place.attempt, place.gone = Phase.STARTING, record.attempt, False
                place.was_ready = False
                self._limit(record, place)
        self._send(CommandKind.START, record, None, record.attempt, record.definition.timeout)

    def rouse(self, record: ServiceRecord) -> None:
        """Commands the instances of a launched service that are due for another attempt or that no command has reached."""
        self._begin_due(record)
        for place in sorted(record.instances.values(), key=lambda place: place.id):
            if place.phase is Phase.PRESENT and not place.held and not place.gone:
                self.begin(record, place)

    def _begin_due(self, record: ServiceRecord) -> None:
        for place in sorted(record.instances.values(), key=lambda place: place.id):
            if place.phase is Phase.DUE:
                self.begin(record, place)

    def give_up(self, record: ServiceRecord) -> None:
        """No instance of it is tried again."""
        for place in record.instances.values():
            if place.phase in (Phase.PAUSING, Phase.DUE):
                self.forget(record, place)
                place.phase = Phase.FAILED

    def stop(self, record: ServiceRecord) -> None:
        """Commands all of its instances to stop; ``("stop", name)`` is due when they should have."""
        for place in record.instances.values():
            self.forget(record, place)
        self._world.timers.set(("stop", record.name, ""), self._world.now + record.definition.stop_timeout)
        self._send(CommandKind.STOP, record, None, record.attempt, record.definition.stop_timeout)

    def hold(self, record: ServiceRecord, instance: str) -> Instance:
        """From now on an instance is started and stopped by a rolling restart only: its end is no failure of the run."""
        place = self.place_of(record, instance)
        place.held = True
        return place

    def release(self, record: ServiceRecord, place: Instance) -> None:
        """Back into the care of the run. One that is down counts as lost and is started again as the retry policy says."""
        place.held = False
        if place.phase in (Phase.STARTING, Phase.UP) and place.ready_since is None:
            self._limit(record, place)
        elif place.phase is Phase.HELD:
            place.phase = Phase.STARTING
            self.fail(record, place, Cause.LOST, "a rolling restart left it down")

    def is_down(self, record: ServiceRecord, place: Instance) -> None:
        """An instance that is held runs no more."""
        self.forget(record, place)
        place.phase, place.ready_since = Phase.HELD, None
        place.void()
        self._changed(record)

    def remove(self, record: ServiceRecord, place: Instance) -> None:
        """Forgets an instance that is there no more."""
        self.forget(record, place)
        record.instances.pop(place.id, None)
        self._changed(record)

    def begin_held(self, record: ServiceRecord, place: Instance, version: str) -> None:
        """Starts an instance that is held, in a version."""
        record.attempt += 1
        place.phase, place.attempt, place.gone, place.was_ready = Phase.STARTING, record.attempt, False, False
        place.ready_since = None
        place.void()
        self.repeat_held(record, place, version)
        self._changed(record)

    def repeat_held(self, record: ServiceRecord, place: Instance, version: str) -> None:
        self._send(CommandKind.START, record, place.id, place.attempt, record.definition.timeout, version)

    def stop_held(self, record: ServiceRecord, place: Instance) -> None:
        """Stops an instance that is held; it lets its work end first."""
        self._send(CommandKind.STOP, record, place.id, place.attempt, record.definition.stop_timeout)

    def ask_again(self, record: ServiceRecord) -> None:
        """For a new leader: votes are void, commands under way are repeated, everyone is asked where he stands."""
        stopping = record.state is ServiceState.STOPPING
        for place in sorted(record.instances.values(), key=lambda place: place.id):
            place.void()
            if place.phase is Phase.STARTING and not place.held and not stopping and not record.leaving:
                self.command(record, place, place.attempt)
            elif place.phase is Phase.UP:
                self.readiness(record, place)
        if stopping:
            self._send(CommandKind.STOP, record, None, record.attempt, record.definition.stop_timeout)
        elif record.instances:
            self._send(CommandKind.CHECK, record, None, record.attempt, record.definition.timeout)

    def begin(self, record: ServiceRecord, place: Instance) -> None:
        """Another attempt of one instance."""
        record.attempt += 1
        place.phase, place.attempt, place.gone, place.was_ready = Phase.STARTING, record.attempt, False, False
        self._limit(record, place)
        self.command(record, place, record.attempt)

    def command(self, record: ServiceRecord, place: Instance, attempt: int) -> None:
        self._send(CommandKind.START, record, None if place.id == REST else place.id, attempt, record.definition.timeout)

    def _send(
        self, kind: CommandKind, record: ServiceRecord, instance: str | None, attempt: int, timeout: float, version: str = ""
    ) -> None:
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
                version=version,
            )
        )
