"""One coordinator's time as the leader, from its claim to the next one's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from fabric.coordination.fleet import Fleet
from fabric.coordination.journal import History, Journal
from fabric.coordination.journal_writer import JournalWriter
from fabric.coordination.participants import BusParticipants
from fabric.hub import Hub
from fabric.startup.engine import Engine
from fabric.startup.events import CancelRequested, InstanceLost, Outcome, Progress, RunRequested, ShutdownRequested
from fabric.startup.orchestrator import StartupOrchestrator
from fabric.startup.profile import StartupProfile
from fabric.startup.record import Phase, ServiceState

ROLL_CALL = 1.0
"""Seconds that instances which the journal knows have to say that they are there, and where they stand. They answer at once, as a
rule; one that does not say that it is there counts as lost, is told to start again, and answers that it runs."""


class Term:
    """What only a leader has: the engine, and the ear for the instances.

    Args:
        durations: seconds that services took before.
        watch: told about every change of the run.
        doubt: called with the reason when something shows that another one leads, or the journal fails.

    Attributes:
        epoch: of all commands.
        stopping: whether the history ends in a shutdown.
        ended_by_request: whether it ends in a shutdown or a cancellation.
        inherited: what came of the run, where the history tells its end.
    """

    def __init__(
        self,
        hub: Hub,
        fleet: Fleet,
        journal: Journal,
        *,
        durations: Mapping[str, float],
        watch: Callable[[Progress], None],
        doubt: Callable[[str], None],
    ) -> None:
        self._hub, self._watch, self._doubt = hub, watch, doubt
        self.epoch = 0
        self.stopping = self.ended_by_request = False
        self.inherited: StartupProfile | None = None
        self._last = 0.0
        self._heard = asyncio.Event()
        self.participants = BusParticipants(hub)
        self.orchestrator = StartupOrchestrator(
            fleet.graph,
            self.participants,
            clock=hub.clock,
            durations=durations,
            journal=JournalWriter(journal, lambda: self.engine, lambda error: doubt(str(error))),
            watch=self._progressed,
        )

    @property
    def engine(self) -> Engine:
        return self.orchestrator.engine

    async def open(self, history: History) -> None:
        """Replay, ask everybody, and take note of those that are gone.

        Raises:
            FabricError: the broker is not reached.
        """
        self.epoch = history.claim.epoch
        self._last = history.entries[-1][1] if history.entries else 0.0
        asked = [event for event, _ in history.entries if isinstance(event, (RunRequested, CancelRequested, ShutdownRequested))]
        self.stopping = bool(asked) and isinstance(asked[-1], ShutdownRequested)
        self.ended_by_request = bool(asked) and not isinstance(asked[-1], RunRequested)
        await self.participants.open()
        self.orchestrator.take_over(history.entries, epoch=self.epoch)
        # Not yet asked anew, so that all that was said counts.
        if self.engine.plan is not None and self.engine.outcome is not Outcome.RUNNING:
            self.inherited = self.orchestrator.profile()
        await self._call_the_roll(() if self.stopping else self.restartable)

    async def _call_the_roll(self, ready: tuple[str, ...]) -> None:
        """Whoever went while nobody led was missed by nobody. And until those who were ready say so again, nothing is told of
        them: that they have to be asked is no failure of theirs."""
        unwatch = self._hub.registry.watch(lambda _: self._heard.set())
        try:
            async with asyncio.timeout(ROLL_CALL):
                while self._missing() or (ready and not self._stands(ready)):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            if self.deserted:
                return
            for event in self._missing():
                self.participants.tell(event)
        finally:
            unwatch()

    def _stands(self, ready: tuple[str, ...]) -> bool:
        """Whether they are ready by what they said to us: taking the lead makes void what they said before."""
        return self.engine.epoch == self.epoch and set(ready) <= set(self.restartable)

    @property
    def restartable(self) -> tuple[str, ...]:
        """The services that are up and keep running."""
        records = self.engine.services.values()
        return tuple(record.name for record in records if record.state is ServiceState.READY and not record.job)

    @property
    def deserted(self) -> bool:
        """Whether the history tells of a fleet of which nobody is left, such as one that ended with its supervisor."""
        engine = self.engine
        if engine.plan is None:
            return False
        known = [place for record in engine.services.values() for place in record.instances.values() if place.incarnation >= 0]
        over = engine.outcome is not Outcome.RUNNING
        # An incarnation is a time: who came after the last entry is of another start.
        there = (instance for name in engine.services for instance in self._hub.registry.instances(name))
        return (over or bool(known)) and not any(instance.incarnation <= self._last * 1e6 for instance in there)

    def _missing(self) -> list[InstanceLost]:
        return [
            InstanceLost(
                service=record.name,
                instance=place.id,
                reason="it was gone when this coordinator took over",
                incarnation=place.incarnation,
            )
            for record in self.engine.services.values()
            for place in record.instances.values()
            if place.phase in (Phase.PRESENT, Phase.STARTING, Phase.UP)
            and place.incarnation >= 0
            and not place.gone
            and self._hub.registry.get(place.id) is None
        ]

    def _progressed(self, progress: Progress) -> None:
        if self.engine.deposed_by is not None:
            self._doubt(f"the agents obey epoch {self.engine.deposed_by}")
        self._heard.set()
        self._watch(progress)

    async def aclose(self) -> None:
        await self.orchestrator.aclose()
        await self.participants.aclose()
