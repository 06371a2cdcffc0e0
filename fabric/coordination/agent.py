"""The part of the coordinator that lives in every service: it announces, obeys commands, checks health and votes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fabric.contract import contract_of
from fabric.coordination.control import COMMAND, read_command
from fabric.coordination.health_checks import HealthChecks
from fabric.coordination.reports import Reports
from fabric.errors import InvalidMessage, StaleCommand
from fabric.health import Health, HealthStatus
from fabric.hub import Hub
from fabric.routing.instance import Instance, InstanceState, Lifecycle
from fabric.served import Served
from fabric.service import Service
from fabric.startup.definition import HealthCheck
from fabric.startup.events import (
    Command,
    CommandAccepted,
    CommandKind,
    InstanceJoined,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    Vote,
)
from fabric.tasks import Tasks
from fabric.transports import topology
from fabric.transports.base import Consumer, Delivery, LinkEvent, LinkState
from fabric.wire import batch

_log = logging.getLogger("fabric.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPolicy:
    """How an agent checks and votes. All in seconds.

    Attributes:
        first_check: pause after a health check that did not say yes; it doubles up to ``check_interval``. Shorter opens
            gates sooner and costs the service more.
        check_interval: between votes of a service that is ready, and between its checks unless they say otherwise.
        check_timeout: of one check, unless it says otherwise; longer counts as unknown.
        vote_valid_for: how long a vote counts; longer where a check may take longer. It rides out a stall of the broker, and
            keeps a gate open for an instance that hangs.
        report_timeout: to hand a report to the broker; then it is dropped, for the next one says more.
        goodbye_timeout: at the end, for the reports that have not left yet.
    """

    first_check: float = 0.05
    check_interval: float = 2.0
    check_timeout: float = 5.0
    vote_valid_for: float = 10.0
    report_timeout: float = 5.0
    goodbye_timeout: float = 1.0

    def __post_init__(self) -> None:
        if min(self.first_check, self.check_interval, self.check_timeout, self.report_timeout) <= 0:
            raise ValueError("all times must be positive seconds")
        if self.vote_valid_for < self.check_interval + self.check_timeout:
            raise ValueError("a vote must outlive the next check: vote_valid_for >= check_interval + check_timeout")


@runtime_checkable
class TellsHealth(Protocol):
    """A service that knows itself when its health changes."""

    def when_health_changes(self, check: Callable[[], None]) -> None:
        """Called once, before ``start``. ``check``: have the health checked now, not only when its time has come."""
        ...


class Agent:
    """Runs one service in this process, by command or at once.

    Args:
        checks: what has to say yes; None is the service's own ``check_health``.
    """

    def __init__(
        self,
        hub: Hub,
        service: Service,
        policy: AgentPolicy | None = None,
        *,
        checks: Sequence[HealthCheck] | None = None,
    ) -> None:
        self._hub, self._service = hub, service
        self._policy = policy = policy or AgentPolicy()
        if checks is None:
            checks = [HealthCheck(interval=policy.check_interval, timeout=policy.check_timeout)]
        self._checks = HealthChecks(checks, service, hub.clock)
        self._name = service.name
        self._reports = Reports(
            hub,
            service.name,
            vote_valid_for=max(policy.vote_valid_for, policy.check_interval + self._checks.longest),
            timeout=policy.report_timeout,
        )
        self._life = Lifecycle(hub.instance)
        self._health = Health.unknown("not started")
        self._tasks = Tasks(f"agent of {hub.instance}")
        self._run, self._attempt = "", 0
        self._starting: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._next: Command | None = None
        self._check_now = asyncio.Event()
        self._turned = asyncio.Event()
        self._control: Consumer | None = None
        self._early: list[Delivery] = []
        self._unwatch: Callable[[], None] = lambda: None
        self._served: Served | None = None
        self._released = True
        service.hub = hub
        if isinstance(service, TellsHealth):
            service.when_health_changes(self._check_now.set)

    @property
    def hub(self) -> Hub:
        return self._hub

    @property
    def instance(self) -> str:
        return self._hub.instance

    @property
    def state(self) -> InstanceState:
        return self._life.state

    @property
    def health(self) -> Health:
        return self._health

    async def wait_state(self, state: InstanceState, *, timeout: float) -> None:
        """Returns when the service is in ``state``.

        Raises:
            TimeoutError: not within ``timeout`` seconds; says where it is.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._life.state is not state:
                    self._turned.clear()
                    await self._turned.wait()
        except TimeoutError:
            now = f"{self._life.state} and its health is {self._health.status}: {self._health.reason or 'no reason given'}"
            raise TimeoutError(f"{self._hub.instance} is not {state} after {timeout:g} s, it is {now}") from None

    async def open(self, *, managed: bool) -> None:
        """Be found; then wait for the command, or start at once when there is no coordinator (``managed`` False).

        Raises:
            Exception: whatever ``start`` raised, when not managed.
        """
        # Whoever hears that we are here may command us at once: the ear comes before the announcement.
        self._control = await self._hub.transport.consume(
            self._hub.topology.control_lane(topology.command(self._name)),
            self._receive,
            timeout=self._hub.settings.connect_timeout,
        )
        self._served = await self._hub.serve(self._service, self._describe)
        self._tasks.start(self._reports.send(), "send reports")
        for delivery in self._early:
            self._receive(delivery)
        self._early.clear()
        self._unwatch = self._hub.transport.watch(self._link_changed)
        self._reports.tell(InstanceJoined)
        if not managed:
            await self._start()
            self._checking = self._tasks.start(self._check_health(), "check health")

    def _describe(self) -> Instance:
        return self._hub.describe(
            contract_of(type(self._service)),
            state=self._life.state,
            health=self._health,
            metadata=dict(self._service.metadata),
        )

    def _link_changed(self, event: LinkEvent) -> None:
        if event.state is LinkState.READY:
            self._reports.tell(InstanceJoined)
            self._tell_where_i_stand()

    # ------------------------------------------------------------ commands

    def _receive(self, delivery: Delivery) -> None:
        if self._served is None:
            self._early.append(delivery)
            return
        for message in batch.messages(delivery.body, delivery.content_type):
            if isinstance(message, InvalidMessage) or message.method != COMMAND:
                continue
            try:
                self._obey(read_command(message))
            except (InvalidMessage, StaleCommand) as error:
                _log.warning("%s refused a command from %s: %s", self._hub.instance, message.instance, error)

    def _obey(self, command: Command) -> None:
        """Take a command, or answer a repeated one with what came of it.

        Raises:
            StaleCommand: its sender no longer leads.
        """
        if command.service != self._name or command.instance not in (None, self._hub.instance):
            return
        if command.epoch < self._reports.epoch:
            raise StaleCommand(command.epoch, self._reports.epoch)
        self._reports.epoch = command.epoch
        match command.kind:
            case CommandKind.START:
                self._obey_start(command)
            case CommandKind.STOP:
                self._next = None
                if self._stopping is None or self._stopping.done():
                    self._stopping = self._tasks.start(self._obey_stop(command), "stop")
            case CommandKind.CHECK:
                self._tell_where_i_stand()

    def _obey_start(self, command: Command) -> None:
        """Attempts count within a run: another run may count from 1 again, and gets a start of its own."""
        if self._life.state is InstanceState.STOPPING:
            self._next = command
            return
        repeated = command.run == self._run and command.attempt <= self._attempt
        if not repeated:
            self._run, self._attempt = command.run, command.attempt
        busy = self._starting is not None and not self._starting.done()
        up = self._life.state in (InstanceState.STARTING, InstanceState.RUNNING)
        if repeated or busy or up:
            # What runs is adopted by a run or a leader that came later.
            self._tell_where_i_stand()
            return
        self._starting = self._tasks.start(self._start_and_report(command.timeout), "start")

    async def _start_and_report(self, timeout: float) -> None:
        self._reports.tell(CommandAccepted, attempt=self._attempt)
        try:
            async with asyncio.timeout(timeout):
                await self._start()
        except TimeoutError:
            await self._failed(f"start() took longer than its timeout of {timeout:g} s", "start.timeout")
            return
        except Exception as error:
            _log.warning("%s could not start: %r", self._hub.instance, error, exc_info=error)
            await self._failed(f"{type(error).__name__}: {error}", getattr(error, "code", None))
            return
        self._reports.tell(ServiceStarted, attempt=self._attempt)
        if self._checking is None or self._checking.done():
            self._checking = self._tasks.start(self._check_health(), "check health")
        self._check_now.set()

    async def _start(self) -> None:
        self._turn(InstanceState.INITIALIZING)
        self._health = Health.unknown("starting")
        self._released = False
        await self._service.start()
        self._turn(InstanceState.STARTING)
        assert self._served is not None
        await self._served.open_doors()

    async def _failed(self, reason: str, code: Any) -> None:
        self._health = Health.bad(reason)
        await self._release()
        self._turn(InstanceState.FAILED, reason)
        self._reports.tell(
            ServiceFailed, attempt=self._attempt, reason=reason[:2000], code=code if isinstance(code, str) else None
        )

    async def _obey_stop(self, command: Command) -> None:
        self._attempt = max(self._attempt, command.attempt) if command.run == self._run else command.attempt
        self._run = command.run
        await self.stop(min(command.timeout, self._hub.settings.drain_timeout))
        if self._next is not None:  # a run that began while the last one was being stopped
            command, self._next = self._next, None
            self._obey_start(command)

    def _tell_where_i_stand(self) -> None:
        match self._life.state:
            case InstanceState.INITIALIZING:
                self._reports.tell(CommandAccepted, attempt=self._attempt)
            case InstanceState.STARTING | InstanceState.RUNNING:
                self._reports.tell(ServiceStarted, attempt=self._attempt)
                self._check_now.set()
            case InstanceState.FAILED:
                self._reports.tell(ServiceFailed, attempt=self._attempt, reason=self._life.reason)
            case InstanceState.STOPPED:
                self._reports.tell(ServiceStopped, attempt=self._attempt)
            case _:
                pass

    # ------------------------------------------------------------ health and votes

    async def _check_health(self) -> None:
        pause, asked = self._policy.first_check, True
        while True:
            self._check_now.clear()
            before = self._health.status
            health = await self._checks.ask(anew=asked)
            if self._life.state not in (InstanceState.STARTING, InstanceState.RUNNING):
                return
            self._health = health
            if health.is_ok and self._life.state is InstanceState.STARTING:
                self._turn(InstanceState.RUNNING)
            elif health.status is not before:
                self._hub.announce()
            self._vote()
            longest = self._policy.check_interval
            pause = min(longest, self._checks.due_in) if health.is_ok else min(pause * 2, longest)
            if not health.is_ok and before is HealthStatus.YES:
                pause = self._policy.first_check
            try:
                await asyncio.wait_for(self._check_now.wait(), pause)
            except TimeoutError:
                asked = False
            else:
                asked = True

    def _vote(self) -> None:
        self._reports.tell(Vote, status=self._health.status, reason=self._health.reason, expires_at=0.0)

    def _turn(self, to: InstanceState, reason: str = "") -> None:
        self._life.advance(to, reason)
        self._turned.set()
        self._hub.announce()

    # ------------------------------------------------------------ the end

    async def stop(self, timeout: float | None = None) -> None:
        """Drain, release what the service took, and say so. Idempotent."""
        if self._life.state in (InstanceState.STOPPING, InstanceState.STOPPED):
            return
        for task in (self._starting, self._checking):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait((task,), timeout=1.0)
        self._health = Health.unknown("stopped")
        self._turn(InstanceState.STOPPING)
        if self._served is not None:
            await self._served.drain(timeout)
        await self._release()
        self._turn(InstanceState.STOPPED)
        self._reports.tell(ServiceStopped, attempt=self._attempt)

    async def _release(self) -> None:
        if self._released:
            return
        self._released = True
        limit = self._hub.settings.drain_timeout
        try:
            async with asyncio.timeout(limit):
                await self._service.stop()
        except TimeoutError:
            _log.warning("%s: stop() took longer than %g s", self._hub.instance, limit)
        except Exception as error:
            _log.warning("%s: stop() failed: %r", self._hub.instance, error, exc_info=error)

    async def aclose(self) -> None:
        """Stop if that was not done, hand over the last reports, and leave the bus."""
        await self.stop()
        self._unwatch()
        if self._control is not None:
            await self._control.aclose()
        await self._reports.handed_over(self._policy.goodbye_timeout)
        await self._tasks.aclose()
        if self._served is not None:
            await self._served.aclose()
