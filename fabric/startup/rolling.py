"""A rolling restart: one instance after the other, and back again when the new version is no good."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from fabric.errors import ConfigurationError, UnknownName
from fabric.startup.attempts import Attempts
from fabric.startup.events import Progress, RollFinished, RollRequested, RollState, Subject
from fabric.startup.plan import Plan
from fabric.startup.record import Instance, Phase, ServiceRecord, ServiceState
from fabric.startup.world import World

_TIMER = ("roll", "", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``start`` an instance in ``version``, or stop it."""

    start: bool
    service: str
    instance: str
    version: str = ""


def check_roll(request: RollRequested, plan: Plan, records: dict[str, ServiceRecord]) -> None:
    """Refuses a rolling restart that can't keep its promises.

    Raises:
        UnknownName: it names a service that the run does not have.
        ConfigurationError: a service is not ready, or has too few instances to spare one without a surge.
    """
    for name in request.services:
        if name not in plan.rank:
            raise UnknownName("service", name, used_by="the rolling restart", known=tuple(plan.rank))
        record = records[name]
        if record.state is not ServiceState.READY:
            raise ConfigurationError(f"{name} is {record.state}; a rolling restart begins with services that are ready")
        count = record.definition.instances
        if not request.surge and _least(request, count) >= count:
            raise ConfigurationError(
                f"{name} has {count} instance{'' if count == 1 else 's'}, of which {_least(request, count)} must stay available: "
                f"allow a surge (--surge) or lower the minimum available (--min-available)"
            )


def _least(request: RollRequested, count: int) -> int:
    """The instances that must stay available."""
    if request.min_available is not None:
        return request.min_available
    return count if request.surge or count == 1 else count - 1


class RollingRestart:
    """One rolling restart as a state machine: ``advance``, called after every event, does what can be done then.

    No instance is stopped unless enough others are ready at that moment; one that is not ready is stopped at any time.
    An instance of the new version that fails, does not become stable in its time, or falls over later makes it go back.

    Args:
        world: shared with the engine.
        attempts: starts and stops instances, and hears what becomes of them.
        plan: of the current run.
        request: what to do.

    Raises:
        ConfigurationError: see ``check_roll``; nothing was touched.

    Attributes:
        state, reason: where it is and why.
        current: the step under way.
        replaced: the instances that run the new version, in the order in which they got it.
    """

    def __init__(self, world: World, attempts: Attempts, plan: Plan, request: RollRequested) -> None:
        check_roll(request, plan, world.records)
        self.request = request
        self.state = RollState.RUNNING
        self.reason = ""
        self.current: Step | None = None
        self.replaced: list[str] = []
        self._world, self._attempts = world, attempts
        self._services = [name for name in plan.nodes if name in request.services]
        self._ids = {name: sorted(world.records[name].instances) for name in self._services}
        self._extra = {name: _free_id(name, self._ids[name]) for name in self._services} if request.surge else {}
        self._steps: deque[Step] = deque()
        for name in self._services:
            self._steps.extend(self._replace(name, self._ids[name], request.version, surge=request.surge))
            for instance in self._ids[name]:
                attempts.hold(world.records[name], instance)
        self._deadline: float | None = None
        self._paused = False
        self._then: RollState | None = None
        self._end_state = RollState.DONE
        self._say(f"{len(self._steps)} steps for {', '.join(self._services)}")

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def holds(self) -> frozenset[str]:
        """The services that it has in its hands."""
        return frozenset() if self.state.over else frozenset(self._services)

    @property
    def steps_left(self) -> int:
        return len(self._steps) + (self.current is not None)

    def pause(self) -> None:
        """No other step begins until ``resume``."""
        if not self.state.over and not self._paused:
            self._paused = True
            self._say("paused")

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._say("resumed")

    def abort(self, *, revert: bool) -> None:
        """After the step under way: back to the previous version, or an end as it is, but with every instance up."""
        if self.state is RollState.RUNNING and self._then is None:
            self._paused = False
            self.reason = "aborted on request"
            self._then = RollState.REVERTING if revert else RollState.ABORTED

    def drop(self, reason: str) -> None:
        """Ends it at once, because the run that it belongs to ends."""
        if not self.state.over:
            self.reason = reason
            self._end(RollState.ABORTED)

    def repeat(self) -> None:
        """For a new leader: the command of the step under way is sent again."""
        step = self.current
        if step is None or self.state.over:
            return
        record = self._world.records[step.service]
        place = record.instances.get(step.instance)
        if place is not None and step.start:
            self._attempts.repeat_held(record, place, step.version)
        elif place is not None:
            self._attempts.stop_held(record, place)

    def advance(self) -> None:
        """Does everything that can be done at this moment."""
        while not self.state.over:
            if self.current is not None:
                if not self._finish_current():
                    return
            elif (fallen := self._fallen()) is not None:
                self._fail(fallen)
            elif self._then is RollState.REVERTING:
                self._go_back()
            elif self._then is RollState.ABORTED:
                self._wind_up()
            elif self._paused or not self._begin_next():
                return

    # ------------------------------------------------------------ steps

    def _replace(self, name: str, instances: Sequence[str], version: str, *, surge: bool) -> list[Step]:
        steps = []
        if surge:
            steps.append(Step(start=True, service=name, instance=self._extra[name], version=version))
        for instance in instances:
            steps.append(Step(start=False, service=name, instance=instance))
            steps.append(Step(start=True, service=name, instance=instance, version=version))
        if surge:
            steps.append(Step(start=False, service=name, instance=self._extra[name]))
        return steps

    def _begin_next(self) -> bool:
        """Begins the next step if it may be begun; False if it has to wait."""
        if not self._steps:
            self._end(RollState.REVERTED if self.state is RollState.REVERTING else self._end_state)
            return True
        step, now = self._steps[0], self._world.now
        record = self._world.records[step.service]
        if not step.start and not self._may_stop(record, step.instance):
            least = _least(self.request, record.definition.instances)
            if self._deadline is None:
                self._set_deadline(now + record.definition.timeout)
                self._say(f"waits to stop {step.instance}: {least} of {step.service} have to be ready without it")
            elif now >= self._deadline:
                self._fail(
                    f"{step.service} did not have {least} ready without {step.instance} in {record.definition.timeout:g} s"
                )
                return True
            return False
        self._steps.popleft()
        self.current = step
        place = self._attempts.hold(record, step.instance)
        if step.start:
            self._set_deadline(now + record.definition.timeout + self.request.stable_for)
            self._attempts.begin_held(record, place, step.version)
        else:
            self._set_deadline(now + record.definition.stop_timeout)
            if place.phase is not Phase.HELD:
                self._attempts.stop_held(record, place)
        self._say(f"{'starts' if step.start else 'stops'} {step.instance}")
        return True

    def _finish_current(self) -> bool:
        """Whether the step under way is over, well or not."""
        step = self.current
        assert step is not None
        assert self._deadline is not None
        record = self._world.records[step.service]
        place = record.instances.get(step.instance)
        due = self._world.now >= self._deadline
        if not step.start:
            if place is not None and place.phase is not Phase.HELD and not due:
                return False
            if place is not None:
                self._gone(record, place)
            return self._step_done()
        if place is None or place.phase is Phase.HELD:
            why = record.failures[-1].reason if record.failures else "it is gone"
            self._fail(f"{step.instance} failed: {why}")
            return True
        if self._is_ready(record, place) and place.ready_since is not None:
            stable_at = place.ready_since + self.request.stable_for
            if self._world.now >= stable_at:
                return self._step_done()
            self._world.timers.set(_TIMER, min(stable_at, self._deadline))
        if due:
            said = f"; its last vote was {place.status}" + (f": {place.said}" if place.said else "")
            self._fail(f"{step.instance} was not ready for {self.request.stable_for:g} s without a break in its time{said}")
        return due

    def _step_done(self) -> bool:
        step = self.current
        assert step is not None
        self.current = None
        self._set_deadline(None)
        if step.start and self.state is RollState.RUNNING:
            self.replaced.append(step.instance)
        elif step.instance in self.replaced:
            self.replaced.remove(step.instance)
        return True

    def _gone(self, record: ServiceRecord, place: Instance) -> None:
        """An instance has stopped, or has used up its time to stop."""
        if place.id == self._extra.get(record.name):
            self._attempts.remove(record, place)
        else:
            self._attempts.is_down(record, place)

    def _may_stop(self, record: ServiceRecord, instance: str) -> bool:
        ready = {place.id for place in record.instances.values() if self._is_ready(record, place)}
        return instance not in ready or len(ready) - 1 >= _least(self.request, record.definition.instances)

    def _is_ready(self, record: ServiceRecord, place: Instance) -> bool:
        return place.is_ready(self._world.now, self._world.epoch, checked=record.checked)

    # ------------------------------------------------------------ when it goes wrong

    def _fallen(self) -> str | None:
        """Why an instance that was replaced before is down."""
        if self.state is not RollState.RUNNING:
            return None
        for name in self._services:
            for place in self._world.records[name].instances.values():
                if place.id in self.replaced and place.phase is Phase.HELD:
                    return f"{place.id} fell over after it was replaced"
        return None

    def _fail(self, reason: str) -> None:
        self.current = None
        self._set_deadline(None)
        again = self.state is RollState.REVERTING
        self.reason = f"{self.reason}; going back failed too: {reason}" if again else reason
        if again or not self.request.revert:
            self._end(RollState.FAILED)
        else:
            self._go_back()

    def _go_back(self) -> None:
        """Plans the way back: what is down first, then what was replaced, the last one first."""
        self._then = None
        self.state = RollState.REVERTING
        self._steps.clear()
        for name in reversed(self._services):
            places = self._world.records[name].instances
            extra = places.get(self._extra.get(name, ""))
            down = [
                one for one in self._ids[name] if one in places and not self._is_ready(self._world.records[name], places[one])
            ]
            back = [*down, *(one for one in reversed(self.replaced) if one in self._ids[name] and one not in down)]
            # A surge instance that is up carries the load while the others go back; one that is not is no use.
            steps = self._replace(name, back, self.request.previous, surge=False)
            if extra is not None and not self._is_ready(self._world.records[name], extra):
                self._steps.append(Step(start=False, service=name, instance=extra.id))
                extra = None
            if back and extra is None and name in self._extra:
                steps = self._replace(name, back, self.request.previous, surge=True)
            elif extra is not None:
                steps.append(Step(start=False, service=name, instance=extra.id))
            self._steps.extend(steps)
        self._say(f"{self.reason}; goes back in {len(self._steps)} steps")

    def _wind_up(self) -> None:
        """An end as it is: what was stopped last is started yet, and a surge instance goes."""
        self._then = None
        down = {
            place.id
            for name in self._services
            for place in self._world.records[name].instances.values()
            if place.phase is Phase.HELD
        }
        extras = {self._extra[name] for name in self._extra if self._extra[name] in self._world.records[name].instances}
        kept = [
            step for step in self._steps if (step.start and step.instance in down) or (not step.start and step.instance in extras)
        ]
        self._steps = deque(kept)
        self._end_state = RollState.ABORTED

    def _end(self, state: RollState) -> None:
        self.state = state
        self.current = None
        self._steps.clear()
        self._set_deadline(None)
        for name in self._services:
            record = self._world.records.get(name)
            for place in list(record.instances.values()) if record is not None else ():
                if place.held and record is not None:
                    self._attempts.release(record, place)
        self._say(self.reason or "every instance was replaced")
        self._world.out.append(
            RollFinished(
                roll=self.request.roll, state=state, reason=self.reason, replaced=tuple(self.replaced), at=self._world.now
            )
        )

    def _set_deadline(self, at: float | None) -> None:
        self._deadline = at
        if at is None:
            self._world.timers.cancel(_TIMER)
        else:
            self._world.timers.set(_TIMER, at)

    def _say(self, text: str) -> None:
        state = RollState.PAUSED if self._paused else self.state
        self._world.out.append(
            Progress(subject=Subject.ROLL, name=self.request.roll, state=state, reason=text, at=self._world.now)
        )


def _free_id(name: str, taken: Sequence[str]) -> str:
    """The id of one place more, made as those that are taken."""
    mark = "#" if any(one.startswith(f"{name}#") for one in taken) else "-"
    number = len(taken) + 1
    while f"{name}{mark}{number}" in taken:
        number += 1
    return f"{name}{mark}{number}"
