"""The coordinator: a service like any other, which brings the rest of the fleet up and down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from fabric.contract import rpc
from fabric.coordination.archive import Archive
from fabric.coordination.fleet import Fleet
from fabric.coordination.journal import History, Journal
from fabric.coordination.journals import journal_for, open_journal
from fabric.coordination.leadership import Leadership, LeadershipPolicy
from fabric.coordination.processes import Processes, Versions
from fabric.coordination.status import FleetStatus, ProcessExit, RestartOptions, RunState, UpOptions
from fabric.coordination.term import Term
from fabric.coordination.view import fleet_status, with_profile
from fabric.errors import ConfigurationError, FabricError, NoRoute, ServiceError, StartupError, UnknownName
from fabric.health import Health
from fabric.observed import ObservedHub
from fabric.service import Service
from fabric.startup.events import ProcessExited, Progress, RollRequested
from fabric.startup.profile import StartupProfile
from fabric.tasks import Tasks

_log = logging.getLogger("fabric.coordinator")

PROGRESS = "fleet.progress"
PROGRESS_PAUSE = 0.02
"""Seconds in which changes are gathered into one broadcast: enough to spare the bus, too little to see."""
DOWN_TIMEOUT = 300.0
_RECORD_LIMIT = 5.0
"""Seconds that a run which ended just before the stop has to be recorded."""


class Coordinator(Service):
    """Leads the start-up of one fleet, or stands by while another one does.

    What happens is in the journal before anything is done about it. So when the leader dies, the next one knows what it knew,
    asks the instances where they stand, and goes on; nothing is started again. Only the leader is healthy and takes calls.

    Args:
        fleet: what to bring up.
        autostart: begin at once, without being asked: for a fleet that containers start. Not when there was a run already.
        journal: by default the one that belongs to the broker; see ``journal_for``.
        history: the file where the profile of each run is kept; what services took before orders the next start.
        policy: how leaders take turns.
    """

    name: ClassVar[str] = "coordinator"
    version: ClassVar[str] = "1.0.0"

    def __init__(
        self,
        fleet: Fleet,
        *,
        autostart: UpOptions | None = None,
        journal: Journal | None = None,
        history: Path | None = None,
        policy: LeadershipPolicy | None = None,
    ) -> None:
        self._fleet, self._autostart, self._policy = fleet, autostart, policy
        self._journal = journal
        self._archive = Archive(fleet.name, history)
        self._leadership: Leadership | None = None
        self._leading_task: asyncio.Task[None] | None = None
        self._term: Term | None = None
        self._tasks = Tasks("coordinator")
        self._following: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._broadcasting: asyncio.TimerHandle | None = None
        self._profile: StartupProfile | None = None
        self._sequence = self._runs = 0
        self._stopping = False
        self._health_changed: Callable[[], None] = lambda: None

    async def start(self) -> None:
        journal = self._journal if self._journal is not None else journal_for(self.hub.settings, self.hub.topology)
        self._journal = journal = await open_journal(journal)
        await self._archive.open()
        with contextlib.suppress(NoRoute):
            await self.hub.discover_all()
        self._leadership = Leadership(self.hub, journal, take=self._take, leave=self._leave, policy=self._policy)
        self._leading_task = self._tasks.start(self._leadership.run(), "leadership")

    async def stop(self) -> None:
        if self._broadcasting is not None:
            self._broadcasting.cancel()
        if self._leading_task is not None:
            self._leading_task.cancel()
        if self._term is not None:
            await self._term.aclose()
        await self._tasks.wait(_RECORD_LIMIT)
        await self._tasks.aclose()
        self._archive.close()
        if self._journal is not None:
            await self._journal.aclose()

    def when_health_changes(self, check: Callable[[], None]) -> None:
        """Leading begins and ends at a moment; callers learn of it then, not at the next regular check."""
        self._health_changed = check

    @property
    def leads(self) -> bool:
        """Whether it believes that it leads; the journal and the agents know better."""
        return self._term is not None

    async def check_health(self) -> Health:
        if self._term is not None:
            return Health.ok(f"leads with epoch {self._term.epoch}")
        return Health.bad(f"stands by; {self._who_leads()}")

    async def _take(self, history: History) -> None:
        """Go on where the last leader was."""
        term = await self._open_term(history)
        stays_down = term.ended_by_request
        if term.deserted:
            # Whoever brings that fleet up anew has nothing to take over, and would take its end for the end of the new run.
            await term.aclose()
            term = await self._open_term(History(claim=history.claim, entries=()))
        # As it was kept when the run ended, for later losses and restarts are none of its causes.
        profile = term.inherited and (await self._archive.find(term.inherited.run) or term.inherited)
        self._term = term
        self._stopping = term.stopping
        self._profile = profile
        self._health_changed()
        if term.engine.plan is not None:
            if term.inherited is None:
                self._follow(term, term.engine.run, UpOptions())
            self._tell_everybody()
        elif self._autostart is not None and not stays_down:
            self._tasks.start(self._begin(term, self._autostart), "autostart")

    async def _open_term(self, history: History) -> Term:
        assert self._leadership is not None
        assert self._journal is not None
        term = Term(
            self.hub,
            self._fleet,
            self._journal,
            durations=self._archive.durations,
            watch=self._take_progress,
            doubt=self._leadership.doubt,
        )
        try:
            await term.open(history)
        except BaseException:
            await term.aclose()
            raise
        return term

    async def _leave(self, reason: str) -> None:
        term, self._term = self._term, None
        self._following.clear()
        self._changed.set()
        self._health_changed()
        if term is not None:  # to the end also when it is told to stop in the middle of it: others wait for what the term owns
            await asyncio.shield(self._tasks.start(term.aclose(), "end of the term"))

    @rpc(idempotent=True, timeout=10.0)
    async def up(self, options: UpOptions) -> FleetStatus:
        """Begin a run in the background; one that is under way is superseded, and what runs is adopted. So asking twice, as a
        caller does whose coordinator died, starts nothing twice."""
        await self._begin(self._leading(), options)
        return self._status()

    @rpc(idempotent=True, timeout=5.0)
    async def status(self) -> FleetStatus:
        return self._status()

    @rpc(idempotent=True, timeout=DOWN_TIMEOUT)
    async def down(self) -> FleetStatus:
        """Stop everything in reverse order; returns when it is stopped."""
        term = self._leading()
        self._stopping = True
        try:
            await term.orchestrator.shutdown()
        except StartupError as error:
            raise self._not_leading() from error
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def cancel(self, reason: str = "cancelled") -> FleetStatus:
        """Start nothing more and stop what is still starting; what is ready stays."""
        self._leading().orchestrator.cancel(reason)
        return self._status()

    @rpc(idempotent=True, timeout=60.0)
    async def restart(self, options: RestartOptions) -> FleetStatus:
        """Begin a rolling restart; ``roll`` of the status tells how it goes. What services run is read from their file anew."""
        term = self._leading()
        if term.engine.roll is not None and term.engine.roll.request.roll == options.id:
            return self._status()
        request = RollRequested(
            roll=options.id,
            services=options.services or term.restartable,
            surge=options.surge,
            min_available=options.min_available,
            stable_for=options.stable_for,
            revert=options.revert,
        )
        try:
            term.engine.check_roll(request)
        except (UnknownName, ConfigurationError) as error:
            raise ServiceError(str(error), code="coordinator.restart-refused") from error
        except LookupError as error:
            raise ServiceError("there was no run yet", code="coordinator.no-run") from error
        versions = await Processes(self.hub).prepare(request.services)
        rolling = self._tasks.start(self._roll(term, request, versions), f"rolling restart {options.id}")
        while not rolling.done() and (term.engine.roll is None or term.engine.roll.request.roll != options.id):
            self._changed.clear()
            await self._changed.wait()
            if self._term is not term:
                raise self._not_leading()
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def pause_restart(self) -> FleetStatus:
        """The step under way is finished, and no other is begun."""
        self._leading().orchestrator.pause_roll()
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def resume_restart(self) -> FleetStatus:
        """Go on after a pause."""
        self._leading().orchestrator.resume_roll()
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def abort_restart(self, revert: bool = True) -> FleetStatus:
        """The step under way is finished; then it goes back, or with ``revert`` False leaves things as they are."""
        self._leading().orchestrator.abort_roll(revert=revert)
        return self._status()

    @rpc(idempotent=True, timeout=10.0)
    async def explain(self, service: str) -> str:
        """Why a service is not up, or why it took that long: one line a reason, indented by cause."""
        try:
            return str(self._leading().orchestrator.explain(service))
        except UnknownName as error:
            raise ServiceError(str(error), code="coordinator.unknown-service") from error
        except LookupError as error:
            raise ServiceError("there was no run yet", code="coordinator.no-run") from error

    @rpc(idempotent=True, timeout=10.0)
    async def process_exited(self, exit: ProcessExit) -> None:
        """A supervisor saw a process end."""
        self._leading().participants.tell(
            ProcessExited(service=exit.service, instance=exit.instance, code=exit.code, tail="\n".join(exit.log))
        )

    async def _begin(self, term: Term, options: UpOptions) -> None:
        if options.run and options.run == term.engine.run:
            return
        self._runs += 1
        run = options.run or f"{self._fleet.name}-{self.hub.incarnation:x}-{self._runs}"
        running = self._following.get(run)
        if running is None:
            self._stopping = False
            self._profile = None
            running = self._follow(term, run, options)
        while term.engine.run != run and not running.done():
            self._changed.clear()
            await self._changed.wait()
            if self._term is not term:
                raise self._not_leading()

    def _follow(self, term: Term, run: str, options: UpOptions) -> asyncio.Task[None]:
        following = self._tasks.start(self._run(term, run, options), f"run {run}")
        self._following[run] = following
        return following

    async def _run(self, term: Term, run: str, options: UpOptions) -> None:
        """Follow a run to its end: a new one, or with the id of one that an earlier leader began, that one."""
        try:
            profile = await term.orchestrator.startup(
                self._fleet.stages,
                parallel=options.parallel,
                skip_optional=options.skip_optional,
                abort_on_failure=options.abort_on_failure,
                slots=options.slots or self._fleet.slots,
                budgets=self._fleet.budgets,
                run=run,
            )
        except FabricError as error:
            _log.warning("run %s: %s", run, error)
            return
        finally:
            self._changed.set()
        if self._term is term and term.engine.run == run:
            self._profile = profile
            self._tell_everybody()
        await self._archive.keep(profile)

    async def _roll(self, term: Term, request: RollRequested, versions: Versions) -> None:
        try:
            await term.orchestrator.rolling_restart(
                request.services,
                version=versions.version,
                previous=versions.previous,
                surge=request.surge,
                min_available=request.min_available,
                stable_for=request.stable_for,
                revert=request.revert,
                roll=request.roll,
            )
        except FabricError as error:
            _log.warning("rolling restart %s: %s", request.roll, error)
        finally:
            self._changed.set()
            self._tell_everybody()

    def _leading(self) -> Term:
        if self._term is None:
            raise self._not_leading()
        return self._term

    def _not_leading(self) -> ServiceError:
        """Whoever called tries another coordinator, or this one again."""
        claim = self._leadership.claim if self._leadership is not None else None
        details = {"leader": claim.instance, "epoch": claim.epoch} if claim is not None else {}
        return ServiceError(
            f"{self.hub.instance} does not lead; {self._who_leads()}",
            code="coordinator.not-leader",
            retryable=True,
            details=details,
        )

    def _who_leads(self) -> str:
        claim = self._leadership.claim if self._leadership is not None else None
        return f"{claim.instance} leads with epoch {claim.epoch}" if claim is not None else "nobody is known to lead"

    def _status(self) -> FleetStatus:
        self._sequence += 1
        term = self._leading()
        engine = term.engine
        names = engine.plan.services if engine.plan is not None else ()
        status = fleet_status(
            engine,
            self._fleet.name,
            {name: self.hub.registry.instances(name) for name in names},
            now=term.orchestrator.now,
            sequence=self._sequence,
            stopping=self._stopping,
        )
        if self._profile is not None:
            return with_profile(status, self._profile)
        if engine.plan is not None and status.state.is_settled and not self._stopping:
            # The run has ended, and what came of it is being written down: whoever waits for the end gets both at once.
            return status.model_copy(update={"state": RunState.STARTING})
        return status

    def _take_progress(self, progress: Progress) -> None:
        if isinstance(self.hub, ObservedHub):
            self.hub.progressed(progress.subject, progress.name, progress.state)
        self._changed.set()
        self._tell_everybody()

    def _tell_everybody(self) -> None:
        if self._broadcasting is None:
            self._broadcasting = asyncio.get_running_loop().call_later(PROGRESS_PAUSE, self._broadcast)

    def _broadcast(self) -> None:
        self._broadcasting = None
        if self._term is None:
            return
        self.hub.broadcast(PROGRESS, self._status())


def coordinator_from_environment(fleet: Fleet) -> Coordinator:
    """``FABRIC_AUTOSTART=1`` begins at once."""
    autostart = UpOptions() if os.environ.get("FABRIC_AUTOSTART", "") in ("1", "true", "yes") else None
    return Coordinator(fleet, autostart=autostart)
