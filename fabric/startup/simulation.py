"""A fleet that exists only on paper: instances that do what they are told to, on a clock that jumps.

It drives the same engine as production does. The optimizer tries its proposals on it, and tests put faults into it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fabric.health import HealthStatus
from fabric.startup.engine import Engine
from fabric.startup.events import (
    Action,
    Command,
    CommandAccepted,
    CommandKind,
    Event,
    ProcessExited,
    RunFinished,
    RunRequested,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    SetTimer,
    TimerDue,
    Vote,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What one attempt of an instance does.

    Attributes:
        seconds: from the command until it votes yes, or until it fails.
        started_after: seconds from the command until ``start()`` has returned; None is ``seconds``.
        error: it raises this instead of starting.
        exit_code: its process ends with this code after ``seconds``.
        ready: False: it starts, and then votes no with ``says``.
        silent: it does nothing at all.
        says: the reason in its vote.
        stop_seconds: from the command to stop until it has stopped.
    """

    seconds: float = 1.0
    started_after: float | None = None
    error: str | None = None
    exit_code: int | None = None
    ready: bool = True
    silent: bool = False
    says: str = ""
    stop_seconds: float = 0.0


Behave = Callable[[str, str, int], Behaviour]
"""Given service, instance and attempt (counted anew for each instance, from 1), what happens."""


class Simulation:
    """One engine and its imaginary fleet.

    Args:
        behave: what each attempt does.
        engine: the engine to drive; a new one otherwise.
        start: the time at the beginning, seconds since 1970.
        speed: given how many instances are starting at once, the speed of each, 1 is full; None is always full. ``seconds``
            of a behaviour that comes up are work then, which takes longer at a lower speed.

    Attributes:
        events: every event with its time, as a journal would hold them.
        actions: every action with its time.
    """

    def __init__(
        self, behave: Behave, *, engine: Engine | None = None, start: float = 0.0, speed: Callable[[int], float] | None = None
    ) -> None:
        self.engine = engine or Engine()
        self.now = start
        self.events: list[tuple[float, Event]] = []
        self.actions: list[tuple[float, Action]] = []
        self._behave = behave
        self._load = _Load(self, speed) if speed else None
        self._heap: list[tuple[float, int, Callable[[], Event | None]]] = []
        self._order = itertools.count()
        self._timer: float | None = None
        self._sequence: dict[str, int] = {}
        self._tries: dict[str, int] = {}
        self._incarnation: dict[str, int] = {}
        self._commanded: dict[str, int] = {}
        self._attempts: dict[str, int] = {}
        self._up: set[str] = set()
        self._epoch: dict[str, int] = {}

    def run(self, request: RunRequested, *, until: float = math.inf) -> RunFinished | None:
        """Requests a run and goes on until it has finished.

        Returns:
            Its end, or None if ``until`` came first or nothing more would ever happen: then the run hangs.
        """
        seen = len(self.actions)
        self.tell(request)
        return self.run_on(until=until, seen=seen)

    def run_on(self, *, until: float = math.inf, seen: int | None = None) -> RunFinished | None:
        """Goes on until the next end of a run, after the first ``seen`` actions or after all there were so far."""
        seen = len(self.actions) if seen is None else seen
        while True:
            for _, action in self.actions[seen:]:
                if isinstance(action, RunFinished):
                    return action
            seen = len(self.actions)
            if not self.step(until=until):
                return None

    def go_to(self, time: float) -> None:
        """Everything up to ``time`` happens."""
        while self.step(until=time):
            pass
        self.now = max(self.now, time)

    def step(self, *, until: float = math.inf) -> bool:
        """The next thing happens. False if there is none up to ``until``."""
        event_at = self._heap[0][0] if self._heap else math.inf
        timer_at = self._timer if self._timer is not None else math.inf
        at = min(event_at, timer_at)
        if at > until or at == math.inf:
            return False
        self.now = max(self.now, at)
        if event_at <= timer_at:
            event = heapq.heappop(self._heap)[2]()
            if event is not None:
                self.tell(event)
        else:
            self._timer = None
            self.tell(TimerDue())
        return True

    def tell(self, event: Event) -> None:
        """Hands an event to the engine now and does what it asks for."""
        self.events.append((self.now, event))
        for action in self.engine.handle(event, self.now):
            self.actions.append((self.now, action))
            if isinstance(action, SetTimer):
                self._timer = action.at
            elif isinstance(action, Command):
                self.obey(action)

    def later(self, seconds: float, event: Event) -> None:
        """The event will happen after ``seconds``."""
        self.call_at(seconds, lambda: event)

    def call_at(self, seconds: float, make: Callable[[], Event | None]) -> None:
        """After ``seconds``, what ``make`` returns happens, if it is not None."""
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), make))

    def commands(self, kind: CommandKind = CommandKind.START) -> list[Command]:
        """The commands of a kind that were sent so far."""
        return [action for _, action in self.actions if isinstance(action, Command) and action.kind is kind]

    def vote(
        self,
        service: str,
        instance: str,
        status: HealthStatus = HealthStatus.YES,
        reason: str = "",
        *,
        lasts: float = math.inf,
        epoch: int | None = None,
        number: int | None = None,
    ) -> Vote:
        """A vote with the next sequence number of its instance, to be told now or later."""
        return Vote(
            service=service,
            instance=instance,
            status=status,
            reason=reason,
            incarnation=self._incarnation.get(instance, 0),
            sequence=self._number(instance) if number is None else number,
            epoch=self._epoch.get(instance, self.engine.epoch) if epoch is None else epoch,
            expires_at=self.now + lasts,
        )

    def exit(self, service: str, instance: str, code: int, tail: str = "") -> ProcessExited:
        """The process of an instance ends; the next one will be another incarnation."""
        incarnation = self._incarnation.get(instance, 0)
        self._incarnation[instance] = incarnation + 1
        self._up.discard(instance)
        self._begin_anew(instance)
        return ProcessExited(service=service, instance=instance, code=code, tail=tail, incarnation=incarnation)

    def _begin_anew(self, instance: str) -> None:
        """What the instance was about to do, it does no more."""
        self._commanded[instance] = self._commanded.get(instance, 0) + 1
        if self._load is not None:
            self._load.drop(instance)

    def _number(self, instance: str) -> int:
        self._sequence[instance] = self._sequence.get(instance, -1) + 1
        return self._sequence[instance]

    def obey(self, command: Command) -> None:
        """What the instances make of a command."""
        for instance in self._targets(command):
            self._epoch[instance] = max(command.epoch, self._epoch.get(instance, 0))
            if command.kind is CommandKind.START:
                self._start(command, instance)
            elif command.kind is CommandKind.STOP:
                self._stop(command, instance)
            elif instance in self._up:
                self.later(0.0, self.vote(command.service, instance))

    def _targets(self, command: Command) -> Iterable[str]:
        if command.instance is not None:
            return (command.instance,)
        record = self.engine.services.get(command.service)
        count = record.definition.instances if record else 1
        return tuple(f"{command.service}#{number}" for number in range(1, count + 1))

    def _plan(self, seconds: float, instance: str, make: Callable[[], Event]) -> None:
        """Something that an instance will do, unless it gets another command or dies before."""
        serial = self._commanded.get(instance, 0)
        self.call_at(seconds, lambda: make() if self._commanded.get(instance, 0) == serial else None)

    def _start(self, command: Command, instance: str) -> None:
        service = command.service
        if instance in self._up:
            self.later(0.0, self.vote(service, instance))
            return
        if self._attempts.get(instance) == command.attempt:
            return
        self._attempts[instance] = command.attempt
        self._tries[instance] = tried = self._tries.get(instance, 0) + 1
        self._begin_anew(instance)
        does = self._behave(service, instance, tried)

        def facts() -> dict[str, Any]:
            return {
                "service": service,
                "instance": instance,
                "attempt": command.attempt,
                "incarnation": self._incarnation.get(instance, 0),
                "sequence": self._number(instance),
                "epoch": self._epoch[instance],
            }

        def up() -> Event:
            self._up.add(instance)
            return self.vote(service, instance, HealthStatus.YES if does.ready else HealthStatus.NO, does.says)

        if does.silent:
            return
        self._plan(0.0, instance, lambda: CommandAccepted(**facts()))
        if does.exit_code is not None:
            code = does.exit_code
            self._plan(does.seconds, instance, lambda: self.exit(service, instance, code, does.says))
        elif does.error is not None:
            error = does.error
            self._plan(does.seconds, instance, lambda: ServiceFailed(reason=error, **facts()))
        else:
            started_after = does.seconds if does.started_after is None else does.started_after
            if self._load is not None:
                # What shares a machine says that it has started together with its vote.
                self._load.add(instance, does.seconds, up)
                return
            self._plan(started_after, instance, lambda: ServiceStarted(**facts()))
            self._plan(does.seconds, instance, up)

    def _stop(self, command: Command, instance: str) -> None:
        self._begin_anew(instance)
        self._up.discard(instance)
        self._attempts.pop(instance, None)
        seconds = self._behave(command.service, instance, max(1, self._tries.get(instance, 0))).stop_seconds
        self._plan(
            seconds,
            instance,
            lambda: ServiceStopped(
                service=command.service,
                instance=instance,
                attempt=command.attempt,
                incarnation=self._incarnation.get(instance, 0),
                sequence=self._number(instance),
                epoch=self._epoch[instance],
            ),
        )


class _Load:
    """Work that shares a machine: whenever its number changes, all go on at another speed."""

    def __init__(self, simulation: Simulation, speed: Callable[[int], float]) -> None:
        self._simulation, self._speed = simulation, speed
        self._left: dict[str, tuple[float, Callable[[], Event]]] = {}
        self._since = simulation.now
        self._serial = 0

    def add(self, instance: str, work: float, done: Callable[[], Event]) -> None:
        self._settle()
        self._left[instance] = (work, done)
        self._arm()

    def drop(self, instance: str) -> None:
        """It was commanded anew, stopped or died."""
        if instance in self._left:
            self._settle()
            del self._left[instance]
            self._arm()

    def _settle(self) -> None:
        """Books the work that was done since the last change."""
        now = self._simulation.now
        if self._left:
            done = (now - self._since) * self._speed(len(self._left))
            self._left = {name: (work - done, then) for name, (work, then) in self._left.items()}
        self._since = now

    def _arm(self) -> None:
        self._serial += 1
        serial = self._serial
        if self._left:
            name, (work, _) = min(self._left.items(), key=lambda item: (item[1][0], item[0]))
            self._simulation.call_at(
                max(0.0, work) / self._speed(len(self._left)), lambda: self._finish(name) if serial == self._serial else None
            )

    def _finish(self, instance: str) -> Event:
        self._settle()
        _, then = self._left.pop(instance)
        self._arm()
        return then()
