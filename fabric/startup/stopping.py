"""Stops services: the whole fleet, what a run has no place for, and what is withdrawn when a run ends early."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from fabric.startup.attempts import Attempts
from fabric.startup.record import REST, Phase, ServiceRecord, ServiceState
from fabric.startup.teardown import Teardown
from fabric.startup.world import World


class Stopping:
    """What is being stopped, in which order.

    Args:
        world: shared with the engine.
        attempts: sends the commands.
        put: puts a service into a state, with the reason.
    """

    def __init__(self, world: World, attempts: Attempts, put: Callable[[ServiceRecord, ServiceState, str], None]) -> None:
        self._world, self._attempts, self._put = world, attempts, put
        self._teardown = Teardown((), {})

    @property
    def finished(self) -> bool:
        """Whether all that was to be stopped by ``begin`` has stopped."""
        return self._teardown.finished

    def begin(self, names: Iterable[str], dependents: Mapping[str, Iterable[str]], reason: str) -> None:
        """Stops services, dependents before what they need; an earlier order is dropped."""
        self._teardown = Teardown(names, dependents)
        for name in self._teardown.first():
            self.stop(self._world.records[name], reason)

    def stop(self, record: ServiceRecord, reason: str) -> None:
        """Stops one, if it is not being stopped already."""
        if record.state is not ServiceState.STOPPING:
            self._put(record, ServiceState.STOPPING, reason)
            self._attempts.stop(record)

    def is_over(self, record: ServiceRecord, reason: str) -> None:
        """It has stopped, or its time to stop is over; next are those that had to wait for it."""
        self._world.timers.cancel(("stop", record.name, ""))
        for place in list(record.instances.values()):
            self._attempts.forget(record, place)
            place.phase = Phase.STOPPED
        record.instances.pop(REST, None)
        self._put(record, ServiceState.STOPPED, reason)
        for name in self._teardown.done(record.name):
            self.stop(self._world.records[name], reason)

    def withdraw(self, names: Collection[str], reason: str) -> None:
        """Nothing is started any more, and of ``names`` is stopped what is starting."""
        self._world.ended = True
        starting = []
        for record in self._world.records.values():
            if record.name not in names:
                continue
            self._attempts.give_up(record)
            if record.state in (ServiceState.WAITING, ServiceState.QUEUED, ServiceState.RETRYING):
                self._put(record, ServiceState.WITHDRAWN, reason)
            elif record.state is ServiceState.STARTING:
                starting.append(record)
        for record in starting:
            self.stop(record, reason)
