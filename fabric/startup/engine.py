"""The start-up of a fleet as a state machine without I/O.

``engine.handle(event, now)`` returns what is to be done. Nothing else changes it, and it looks at no clock and draws no
random numbers: the same events at the same times give the same actions and the same state. So it runs alike in a simulation,
behind the asyncio driver, and in a coordinator that replays its journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabric.errors import ConfigurationError
from fabric.startup.attempts import Attempts
from fabric.startup.events import (
    Action,
    CancelRequested,
    CommandAccepted,
    CommandLost,
    Event,
    InstanceJoined,
    InstanceLost,
    LeadershipTaken,
    Outcome,
    ProcessExited,
    Progress,
    RollAborted,
    RollPaused,
    RollRequested,
    RollResumed,
    RunFinished,
    RunRequested,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    SetTimer,
    ShutdownRequested,
    Subject,
    TimerDue,
    Vote,
)
from fabric.startup.plan import Plan, make_plan
from fabric.startup.record import LAUNCHED, ServiceRecord, ServiceState, Trigger
from fabric.startup.rolling import RollingRestart, check_roll
from fabric.startup.roster import Roster
from fabric.startup.scheduler import Scheduler
from fabric.startup.stopping import Stopping
from fabric.startup.succession import adopt, new_record
from fabric.startup.timers import Key
from fabric.startup.verdict import verdict
from fabric.startup.world import World


class Engine:
    """One fleet and its current run.

    Args:
        epoch: the fencing number of whoever leads; it is in every command and only votes of it count.

    Attributes:
        outcome: RUNNING until the run has settled; it changes later when services fail or recover.
        reason: of the outcome, in one line.
        started_at, finished_at: of the current run.
        finished_by: what the run waited for last.
        roll: the latest rolling restart.
    """

    def __init__(self, *, epoch: int = 0) -> None:
        self._world = World(epoch=epoch)
        self._attempts = Attempts(self._world, changed=self._instance_changed, requeue=self._requeue)
        self._roster = Roster(self._world, self._attempts, deposed=self._depose)
        self._scheduler: Scheduler | None = None
        self.outcome = Outcome.RUNNING
        self.reason = ""
        self.started_at = self.finished_at = 0.0
        self.finished_by = Trigger("run", "", 0.0)
        self.roll: RollingRestart | None = None
        self._runs: set[str] = set()
        self._ending: tuple[Outcome, str] | None = None
        self._stopping = Stopping(self._world, self._attempts, lambda record, state, why: self.scheduler.set(record, state, why))
        self._going_down = False
        self._deposed_by: int | None = None
        self._armed: float | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            RunRequested: self._run_requested,
            CancelRequested: self._cancel_requested,
            ShutdownRequested: self._shutdown_requested,
            RollRequested: self._roll_requested,
            RollPaused: self._roll_paused,
            RollResumed: self._roll_resumed,
            RollAborted: self._roll_aborted,
            TimerDue: self._timer_due,
            InstanceJoined: self._roster.joined,
            CommandAccepted: self._roster.accepted,
            ServiceStarted: self._roster.started,
            ServiceFailed: self._roster.failed,
            Vote: self._roster.voted,
            ServiceStopped: self._roster.stopped,
            InstanceLost: self._roster.lost,
            ProcessExited: self._roster.exited,
            CommandLost: self._roster.command_lost,
        }

    @property
    def now(self) -> float:
        """The latest time that was handed in; it never goes back."""
        return self._world.now

    @property
    def epoch(self) -> int:
        return self._world.epoch

    @property
    def deposed_by(self) -> int | None:
        """The epoch of another leader that was heard of. Then this engine does nothing until it leads again."""
        return self._deposed_by

    @property
    def run(self) -> str:
        """The id of the current run; empty before the first."""
        return self._world.run

    @property
    def plan(self) -> Plan | None:
        """Of the current run; None before the first."""
        return self._scheduler.plan if self._scheduler else None

    @property
    def ended(self) -> bool:
        """Nothing is started any more: the run was cancelled, aborted or shut down."""
        return self._world.ended

    @property
    def services(self) -> dict[str, ServiceRecord]:
        """Every service by name. To be read only."""
        return self._world.records

    @property
    def scheduler(self) -> Scheduler:
        """The gates and the queue of the current run. To be read only.

        Raises:
            LookupError: there was no run yet.
        """
        if self._scheduler is None:
            raise LookupError("no run was requested yet")
        return self._scheduler

    def timers(self) -> list[tuple[Key, float]]:
        """Every deadline that is set, by its key."""
        return self._world.timers.items()

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event and returns what is to be done about it, in order.

        Args:
            event: what happened.
            now: seconds since 1970; an earlier time than before counts as the time before.

        Raises:
            ConfigurationError: a run was requested that cannot be; nothing has changed.
        """
        world = self._world
        gap, world.now = max(0.0, now - world.now), max(world.now, now)
        world.out = []
        if isinstance(event, LeadershipTaken):
            self._leadership_taken(event.epoch, gap)
        elif self._deposed_by is not None:
            return []
        else:
            self._handlers[type(event)](event)
        if self._deposed_by is None and self._scheduler is not None:
            self._scheduler.settle()
            if self.roll is not None:
                self.roll.advance()
                self._scheduler.settle()
            self._finish()
        at = world.timers.next() if self._deposed_by is None else None
        if at != self._armed:
            self._armed = at
            world.out.append(SetTimer(at=at))
        return world.out

    # ------------------------------------------------------------ runs

    def _run_requested(self, event: RunRequested) -> None:
        if event.run in self._runs:
            # A request that is repeated must not start again what was cancelled.
            return
        if self._going_down and not self._stopping.finished:
            self._runs.add(event.run)
            self._emit_finished(event.run, Outcome.CANCELLED, "the fleet is being shut down; ask again when it is down")
            return
        plan = make_plan(event)
        self._drop_roll(f"run {event.run} took over")
        world, old = self._world, self._world.records
        if self._scheduler is not None and self.outcome is Outcome.RUNNING:
            self._emit_finished(world.run, Outcome.SUPERSEDED, f"run {event.run} took over")
        self._runs.add(event.run)
        world.run, world.ended, self._ending, self._going_down = event.run, False, None, False
        self.outcome, self.reason, self.started_at = Outcome.RUNNING, "", world.now
        world.records = {name: new_record(plan, name, world.now) for name in plan.services}
        before = self._scheduler.plan.dependents if self._scheduler else {}
        for kind in ("gate", "stage", "optional", "stop"):
            world.timers.cancel_kind(kind)
        self._scheduler = Scheduler(world, plan, launch=self._attempts.launch, changed=self._service_changed)
        for name, record in old.items():
            if name in plan.rank:
                adopt(record, world.records[name], self._attempts, self._scheduler, world.now)
                continue
            self._attempts.give_up(record)
            if record.alive():
                record.leaving = True
                world.records[name] = record
            else:
                for place in record.instances.values():
                    self._attempts.forget(record, place)
        self._scheduler.begin()
        for name in plan.rank:
            self._rouse(world.records[name])
        leaving = [name for name, record in old.items() if name not in plan.rank and record.alive()]
        self._stopping.begin(leaving, before, "the new run has no place for it")

    def _cancel_requested(self, event: CancelRequested) -> None:
        if self._scheduler is None or self._going_down:
            return
        self._drop_roll(event.reason)
        if self.outcome is Outcome.RUNNING and self._ending is None:
            self._ending = (Outcome.CANCELLED, event.reason)
        self._stopping.withdraw(self._scheduler.plan.rank, event.reason)

    def _shutdown_requested(self, event: ShutdownRequested) -> None:
        if self._scheduler is None or self._going_down:
            return
        self._going_down = self._world.ended = True
        self._drop_roll(event.reason)
        plan = self._scheduler.plan
        if self.outcome is Outcome.RUNNING:
            self._ending = (Outcome.CANCELLED, event.reason)
        alive = [name for name, record in self._world.records.items() if record.alive()]
        for record in self._world.records.values():
            self._attempts.give_up(record)
            if not record.alive() and record.state is not ServiceState.SKIPPED:
                self._scheduler.set(record, ServiceState.STOPPED, event.reason)
        self._stopping.begin(alive, plan.dependents, event.reason)

    # ------------------------------------------------------------ rolling restarts

    def check_roll(self, event: RollRequested) -> None:
        """Whether a rolling restart may begin now.

        Raises:
            ConfigurationError: it can't keep its promises, or another one is under way.
            LookupError: there was no run yet.
        """
        if self.roll is not None and not self.roll.state.over:
            raise ConfigurationError(f"rolling restart {self.roll.request.roll} is under way; wait for it or abort it")
        check_roll(event, self.scheduler.plan, self.services)

    def _roll_requested(self, event: RollRequested) -> None:
        self.check_roll(event)
        self.roll = RollingRestart(self._world, self._attempts, self.scheduler.plan, event)

    def _roll_paused(self, event: RollPaused) -> None:
        if self.roll is not None:
            self.roll.pause()

    def _roll_resumed(self, event: RollResumed) -> None:
        if self.roll is not None:
            self.roll.resume()

    def _roll_aborted(self, event: RollAborted) -> None:
        if self.roll is not None:
            self.roll.abort(revert=event.revert)

    def _drop_roll(self, reason: str) -> None:
        if self.roll is not None:
            self.roll.drop(reason)

    # ------------------------------------------------------------ what the parts report

    def _instance_changed(self, record: ServiceRecord) -> None:
        assert self._scheduler is not None
        self._scheduler.derive(record)
        if record.state is ServiceState.STOPPING and not record.alive():
            self._stopping.is_over(record, "it stopped")
        self._rouse(record)

    def _rouse(self, record: ServiceRecord) -> None:
        """A service may have come up by itself while others of its instances waited for a slot that it needs no more."""
        if record.state in LAUNCHED and not self._world.ended and not record.leaving:
            self._attempts.rouse(record)

    def _requeue(self, record: ServiceRecord) -> None:
        if record.name in self.scheduler.plan.rank:
            self.scheduler.requeue(record)

    def _service_changed(self, record: ServiceRecord) -> None:
        assert self._scheduler is not None
        aborts = self._scheduler.plan.options.abort_on_failure and record.definition.critical
        if aborts and record.state is ServiceState.FAILED and self.outcome is Outcome.RUNNING and self._ending is None:
            self._ending = (Outcome.FAILED, f"{record.name} failed: {record.reason}")
            self._stopping.withdraw(self._scheduler.plan.rank, f"the run ended because {record.name} failed")

    def _depose(self, epoch: int) -> None:
        """A report proves that another one leads: from now on this engine does nothing."""
        self._deposed_by = epoch
        self._world.out.clear()
        if self.outcome is Outcome.RUNNING:
            self.outcome, self.reason = Outcome.SUPERSEDED, f"epoch {epoch} leads"
            self._emit_finished(self.run, self.outcome, self.reason)

    def _leadership_taken(self, epoch: int, gap: float) -> None:
        world = self._world
        if epoch < world.epoch or (self._deposed_by is not None and epoch < self._deposed_by):
            return
        if self._deposed_by is not None and self.outcome is Outcome.SUPERSEDED:
            self.outcome = Outcome.RUNNING
        world.epoch, self._deposed_by, self._armed = epoch, None, None
        if self._scheduler is None:
            return
        world.timers.shift(gap)
        for record in list(world.records.values()):
            self._attempts.ask_again(record)
        if self.roll is not None:
            self.roll.repeat()

    def _timer_due(self, event: TimerDue) -> None:
        self._armed = None
        world, scheduler = self._world, self.scheduler
        while (key := world.timers.pop_due(world.now)) is not None:
            kind, name, instance = key
            if kind == "gate":
                scheduler.judge(scheduler.index[name], Trigger("timer", name, world.now))
            elif kind == "stage":
                scheduler.stage_due(scheduler.index[name])
            elif kind == "optional":
                scheduler.assess(world.records[name], Trigger("timer", name, world.now))
            elif kind == "stop":
                self._stopping.is_over(
                    world.records[name], f"it did not say that it stopped in {world.records[name].definition.stop_timeout:g} s"
                )
            elif kind != "roll" and (place := world.records[name].instances.get(instance)) is not None:
                self._attempts.due(kind, world.records[name], place)
            scheduler.settle()

    # ------------------------------------------------------------ the end

    def _finish(self) -> None:
        """Says how the run ended when nothing of it is under way, and again when that changes later."""
        if not self.scheduler.touched:
            return
        self.scheduler.touched = False
        outcome, reason = self._judge()
        if outcome is Outcome.RUNNING or (outcome is self.outcome and reason == self.reason):
            return
        if self.outcome is Outcome.RUNNING:
            self.finished_at, self.finished_by = self.now, self.scheduler.last_change
        self.outcome, self.reason = outcome, reason
        self._emit_finished(self.run, outcome, reason)

    def _judge(self) -> tuple[Outcome, str]:
        if self._going_down:
            return (Outcome.STOPPED, "everything is stopped") if self._stopping.finished else (Outcome.RUNNING, "")
        if self._ending is not None:
            stopping = any(record.state is ServiceState.STOPPING for record in self.services.values())
            return (Outcome.RUNNING, "") if stopping else self._ending
        return verdict(self.scheduler, self.services, late=self.outcome is not Outcome.RUNNING)

    def _emit_finished(self, run: str, outcome: Outcome, reason: str) -> None:
        self._world.out.append(Progress(subject=Subject.RUN, name=run, state=outcome, reason=reason, at=self.now))
        self._world.out.append(RunFinished(run=run, outcome=outcome, reason=reason, at=self.now))
