"""Who may start now: slots, budgets, and the queue for them."""

from __future__ import annotations

import bisect
from collections.abc import Mapping

from fabric.startup.plan import Plan


class Admission:
    """Slots and budgets are held from the command to start until the service is ready or has failed.

    The queue goes by rank. One that lacks a resource lets others pass; but none that nothing critical needs may pass an
    urgent one by taking what that one waits for.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._queue: list[tuple[int, str]] = []
        self._held: dict[str, None] = {}
        self._used: dict[str, float] = {}

    @property
    def held(self) -> tuple[str, ...]:
        """Who holds a slot, in the order they got it."""
        return tuple(self._held)

    @property
    def queue(self) -> tuple[str, ...]:
        """Who waits for one, first come first."""
        return tuple(name for _, name in self._queue)

    def enter(self, name: str) -> None:
        bisect.insort(self._queue, (self._plan.rank[name], name))

    def leave(self, name: str) -> None:
        """Out of the queue, if it is in it."""
        entry = (self._plan.rank[name], name)
        index = bisect.bisect_left(self._queue, entry)
        if index < len(self._queue) and self._queue[index] == entry:
            del self._queue[index]

    def adopt(self, name: str) -> None:
        """Gives a slot to one that is starting already, also beyond the limit."""
        if name not in self._held:
            self._held[name] = None
            self._use(name, 1.0)

    def release(self, name: str) -> bool:
        """Takes its slot back. False if it had none."""
        if name not in self._held:
            return False
        del self._held[name]
        self._use(name, -1.0)
        return True

    def next(self) -> str | None:
        """The next to start, taken out of the queue and given its slot; None if nobody may."""
        width = self._plan.options.width
        free = None if width is None else width - len(self._held)
        short: set[str] = set()
        for index, (_, name) in enumerate(self._queue):
            if free is not None and free <= 0:
                return None
            resources = self._plan.services[name].resources
            urgent = name in self._plan.urgent
            lacking = self.lacking(name)
            if not lacking and (urgent or not short.intersection(resources)):
                del self._queue[index]
                self.adopt(name)
                return name
            if lacking and urgent:
                short.update(lacking)
                free = None if free is None else free - 1
        return None

    def lacking(self, name: str) -> tuple[str, ...]:
        """The resources of which there is too little left for it."""
        budgets = self._plan.options.budgets
        return tuple(
            resource
            for resource, amount in self._plan.services[name].resources.items()
            # Sums of floats drift; a budget is not missed by a billionth.
            if resource in budgets and self._used.get(resource, 0.0) + amount > budgets[resource] + 1e-9
        )

    def used(self) -> Mapping[str, float]:
        """How much of each resource is held."""
        return dict(self._used)

    def _use(self, name: str, sign: float) -> None:
        for resource, amount in self._plan.services[name].resources.items():
            self._used[resource] = self._used.get(resource, 0.0) + sign * amount
