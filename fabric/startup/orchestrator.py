"""Brings a fleet up and down: the engine, joined to a clock, a journal and the participants."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from fabric.clock import Clock, SystemClock
from fabric.errors import ConfigurationError, FabricError, StartupError
from fabric.startup.advice import Advice
from fabric.startup.definition import ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.events import (
    Action,
    CancelRequested,
    Command,
    Event,
    LeadershipTaken,
    Outcome,
    Progress,
    RollAborted,
    RollFinished,
    RollPaused,
    RollRequested,
    RollResumed,
    RunFinished,
    RunRequested,
    SetTimer,
    ShutdownRequested,
    TimerDue,
)
from fabric.startup.explain import Explanation, explain
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.measure import profile_of
from fabric.startup.optimizer import optimize_startup
from fabric.startup.outbox import Outbox
from fabric.startup.participants import Journal, Participants
from fabric.startup.plan import make_plan
from fabric.startup.profile import StartupProfile
from fabric.startup.stages import RunOptions, StartupStage

_MOST_AT_ONCE = 256
"""Events that are written down together: what came while the journal was written need not wait once more for each."""
Watch = Callable[[Progress], None]
"""Called in the event loop at each change that a user sees. Must not block or raise."""


class StartupOrchestrator:
    """Starts the services of ``graph`` through ``participants``.

    Use it as ``async with``, or call ``aclose`` in the end. It works in the background from the first ``startup`` on and
    goes on watching after that: what fails or recovers later is dealt with as in the run.

    Args:
        graph: who needs whom.
        participants: how commands go out and reports come in.
        clock: where time comes from.
        journal: where every event is kept before anything is done about it; None keeps nothing.
        epoch: the fencing number of this leader.
        durations: seconds that services took before, to order the queue and to judge timeouts.
        watch: told about every change.
    """

    def __init__(
        self,
        graph: ServiceDependencyGraph | Mapping[str, ServiceDefinition],
        participants: Participants,
        *,
        clock: Clock | None = None,
        journal: Journal | None = None,
        epoch: int = 0,
        durations: Mapping[str, float] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.graph = graph if isinstance(graph, ServiceDependencyGraph) else ServiceDependencyGraph(graph)
        self.engine = Engine(epoch=epoch)
        self._participants, self._journal = participants, journal
        self._clock: Clock = clock if clock is not None else SystemClock()
        # Times of the engine are comparable between machines, yet don't jump when this machine's clock is set.
        self._origin = self._clock.time() - self._clock.monotonic()
        self._durations = dict(durations or {})
        self._watch = watch
        self._inbox: asyncio.Queue[tuple[Event, float]] = asyncio.Queue()
        self._outbox = Outbox(participants, self._receive)
        self._worker: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] | None = None
        self._ends: dict[str, asyncio.Future[StartupProfile]] = {}
        self._rolls: dict[str, asyncio.Future[RollFinished]] = {}
        self._down: asyncio.Future[None] | None = None
        self._closed = False

    async def __aenter__(self) -> StartupOrchestrator:
        self._open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def startup(
        self,
        stages: Sequence[StartupStage] = (),
        *,
        parallel: bool = True,
        skip_optional: bool = False,
        abort_on_failure: bool = False,
        slots: int | None = None,
        budgets: Mapping[str, float] | None = None,
        run: str | None = None,
    ) -> StartupProfile:
        """Brings everything up and returns when the run has ended, well or not.

        A run that is under way is superseded; its ``startup`` returns too.

        Args:
            stages: the gates in between; without any, dependencies alone decide.
            parallel, skip_optional, abort_on_failure, slots, budgets: see ``RunOptions``.
            run: the id of the run; a new one otherwise.

        Returns:
            The profile, whatever the outcome: ``profile.ok`` says whether everything critical is up, ``profile.report``
            what went wrong, and ``profile.raise_for_outcome()`` raises ``StartupFailed`` if it is not.

        Raises:
            ConfigurationError: the fleet or the stages can't be started like this; nothing was started.
            StartupError: it was closed, or the journal failed.
        """
        options = RunOptions(
            parallel=parallel,
            slots=slots,
            budgets=budgets or {},
            skip_optional=skip_optional,
            abort_on_failure=abort_on_failure,
        )
        request = RunRequested(
            run=run or uuid.uuid4().hex[:12],
            services=tuple(self.graph.services.values()),
            stages=tuple(stages),
            options=options,
            durations=self._durations,
        )
        make_plan(request)
        self._open()
        end: asyncio.Future[StartupProfile] = asyncio.get_running_loop().create_future()
        self._ends[request.run] = end
        self._receive(request)
        try:
            return await end
        finally:
            self._ends.pop(request.run, None)

    async def shutdown(self, reason: str = "shut down") -> None:
        """Stops everything, dependents before what they need, also what has not finished starting.

        Returns when all of it has stopped or has used up its time to stop.
        """
        if self._worker is None or self.engine.plan is None or self.engine.outcome is Outcome.STOPPED:
            return
        if self._down is None or self._down.done():
            self._down = asyncio.get_running_loop().create_future()
            self._receive(ShutdownRequested(reason=reason))
        await asyncio.shield(self._down)

    def cancel(self, reason: str = "cancelled") -> None:
        """Ends the run: nothing more is started, what is starting is stopped, what is ready stays. Its startup returns."""
        if self._worker is not None:
            self._receive(CancelRequested(reason=reason))

    async def rolling_restart(
        self,
        services: Sequence[str],
        *,
        version: str = "",
        previous: str = "",
        surge: bool = False,
        min_available: int | None = None,
        stable_for: float = 10.0,
        revert: bool = True,
        roll: str | None = None,
    ) -> RollFinished:
        """Replaces the instances of ``services`` one after the other, in dependency order; returns when that is over.

        Args:
            services, version, previous, surge, min_available, stable_for, revert: see ``RollRequested``.
            roll: the id of this rolling restart; a new one otherwise.

        Raises:
            UnknownName: a service is not in the run.
            ConfigurationError: it can't be done without an interruption, or another one is under way.
            LookupError: there was no run yet.
            StartupError: it was closed, or the journal failed.
        """
        request = RollRequested(
            roll=roll or uuid.uuid4().hex[:12],
            services=tuple(services),
            version=version,
            previous=previous,
            surge=surge,
            min_available=min_available,
            stable_for=stable_for,
            revert=revert,
        )
        self.engine.check_roll(request)
        self._open()
        over: asyncio.Future[RollFinished] = asyncio.get_running_loop().create_future()
        self._rolls[request.roll] = over
        self._receive(request)
        try:
            return await over
        finally:
            self._rolls.pop(request.roll, None)

    def pause_roll(self) -> None:
        """The rolling restart under way finishes its step and begins no other."""
        self._receive(RollPaused())

    def resume_roll(self) -> None:
        """It goes on."""
        self._receive(RollResumed())

    def abort_roll(self, *, revert: bool = True) -> None:
        """It finishes its step, and then goes back to the previous version or leaves things as they are."""
        self._receive(RollAborted(revert=revert))

    def explain(self, name: str) -> Explanation:
        """Why the service is not up, or why it took that long.

        Raises:
            UnknownName: there is no such service.
            LookupError: there was no run yet.
        """
        return explain(self.engine, name, now=self.now)

    def profile(self) -> StartupProfile:
        """The profile of the current run as far as it has come.

        Raises:
            LookupError: there was no run yet.
        """
        return profile_of(self.engine, history=self._durations)

    def optimize_startup(self, profiles: Sequence[StartupProfile], *, cores: float | None = None) -> Advice:
        """Advice for the next run, from profiles of this fleet; see ``fabric.startup.optimizer``. Takes seconds of computing.

        Raises:
            ConfigurationError: no profile is of a run that went well.
        """
        return optimize_startup(self.graph, profiles, cores=cores)

    def take_over(self, entries: Sequence[tuple[Event, float]], *, epoch: int) -> None:
        """Goes on where another orchestrator ended: replays its journal, then asks every instance where it stands.

        Nothing that the journal holds is done again; what was commanded and not reported is commanded again under the same
        attempt, which the agents answer with what they recorded.

        Args:
            entries: the events of the journal with their times, oldest first.
            epoch: of this leader, higher than any before.
        """
        for event, at in entries:
            self._decide(event, at)  # what was refused when it came is in the journal too
        self._open()
        self._receive(LeadershipTaken(epoch=epoch))

    async def aclose(self) -> None:
        """Ends all work in the background and stops nothing of the fleet. Runs that wait end with StartupError."""
        self._closed = True
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        tasks = [task for task in (self._worker, self._timer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._outbox.aclose()
        self._give_up(StartupError("the orchestrator was closed before the run had ended"))

    # ------------------------------------------------------------ the loop

    def _open(self) -> None:
        if self._closed:
            raise StartupError("the orchestrator is closed; make a new one")
        if self._worker is None:
            self._unlisten = self._participants.listen(self._receive)
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="startup-orchestrator")

    def _receive(self, event: Event) -> None:
        self._inbox.put_nowait((event, self.now))

    @property
    def now(self) -> float:
        """Seconds since 1970 on the clock of the engine."""
        return self._origin + self._clock.monotonic()

    async def _work(self) -> None:
        try:
            while True:
                entries = [await self._inbox.get()]
                while not self._inbox.empty() and len(entries) < _MOST_AT_ONCE:
                    entries.append(self._inbox.get_nowait())
                if self._journal is not None:
                    await self._journal.append(entries)
                for event, now in entries:
                    self._handle(event, now)
        except FabricError as error:
            self._give_up(error)
        except Exception as error:
            self._give_up(StartupError(f"the orchestrator broke: {error!r}"))
            raise

    def _handle(self, event: Event, now: float) -> None:
        running = self.engine.plan is not None and self.engine.outcome is Outcome.RUNNING
        # A run that is superseded can be described only before the next one takes its place.
        before = profile_of(self.engine) if running and isinstance(event, RunRequested) else None
        for action in self._decide(event, now):
            if isinstance(action, Command):
                self._outbox.post(action)
            elif isinstance(action, SetTimer):
                self._arm(action.at)
            elif isinstance(action, Progress):
                if self._watch is not None:
                    self._watch(action)
            elif isinstance(action, RollFinished):
                roll = self._rolls.get(action.roll)
                if roll is not None and not roll.done():
                    roll.set_result(action)
            else:
                self._ended(action, before)
        if isinstance(event, RunRequested):
            self._answer_repeat(event)

    def _decide(self, event: Event, now: float) -> list[Action]:
        try:
            return self.engine.handle(event, now)
        except ConfigurationError as error:
            # It was possible when it was asked for, and is not any more.
            refused: asyncio.Future[Any] | None = None
            if isinstance(event, RollRequested):
                refused = self._rolls.get(event.roll)
            if isinstance(event, RunRequested):
                refused = self._ends.get(event.run)
            if refused is not None and not refused.done():
                refused.set_exception(error)
            return []

    def _answer_repeat(self, event: RunRequested) -> None:
        """A run that ended before is not run again; who asks for it gets what became of it."""
        if event.run != self.engine.run:
            reason = f"run {self.engine.run} took over"
            self._ended(RunFinished(run=event.run, outcome=Outcome.SUPERSEDED, reason=reason, at=self.engine.now), None)
        elif self.engine.outcome is not Outcome.RUNNING:
            outcome, reason = self.engine.outcome, self.engine.reason
            self._ended(RunFinished(run=event.run, outcome=outcome, reason=reason, at=self.engine.now), None)

    def _ended(self, finished: RunFinished, before: StartupProfile | None) -> None:
        if finished.outcome is Outcome.STOPPED and self._down is not None and not self._down.done():
            self._down.set_result(None)
        if finished.run == self.engine.run:
            profile = profile_of(self.engine, history=self._durations)
            self._durations.update(profile.durations)
        elif before is not None and before.run == finished.run:
            profile = dataclasses.replace(before, outcome=finished.outcome, reason=finished.reason)
        else:
            profile = StartupProfile(
                run=finished.run,
                outcome=finished.outcome,
                reason=finished.reason,
                started_at=finished.at,
                makespan=0.0,
                services=(),
            )
        end = self._ends.get(finished.run)
        if end is not None and not end.done():
            end.set_result(profile)

    def _give_up(self, error: FabricError) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._ends.values(), *self._rolls.values()]
        for end in waiting:
            if not end.done():
                end.set_exception(error)
        if self._down is not None and not self._down.done():
            self._down.set_exception(error)
            # Nobody may be waiting for it any more.
            self._down.exception()

    def _arm(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().create_task(self._ring(at), name="startup-timer")

    async def _ring(self, at: float) -> None:
        await self._clock.sleep(at - self.now)
        self._receive(TimerDue())
