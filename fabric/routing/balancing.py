"""Which of several instances gets the next call. A strategy only chooses: no I/O, no timers, no await."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from fabric.errors import ConfigurationError
from fabric.routing.registry import Endpoint
from fabric.wire.message import ServiceMessage


class Strategy(Protocol):
    """One per target and hub, so that it may keep a place in the round or current weights."""

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        """One of ``candidates``, which is never empty and ordered by instance id."""
        ...


class RoundRobin:
    """Each in turn. Fair in numbers whatever the calls cost."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = -1

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        self._last = (self._last + 1) % len(candidates)
        return candidates[self._last]


class LeastConnections:
    """The one with the fewest calls of ours under way; equals take turns, or the first would get every lone call."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        self._turn = start = (self._turn + 1) % len(candidates)
        best = candidates[start]
        for offset in range(1, len(candidates)):
            other = candidates[(start + offset) % len(candidates)]
            if other.pending < best.pending:
                best = other
        return best


class Weighted:
    """In proportion to the announced weights, spread evenly (smooth weighted round-robin, as nginx does it)."""

    __slots__ = ("_current",)

    def __init__(self) -> None:
        self._current: dict[str, float] = {}

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        current = self._current
        if len(current) > 2 * len(candidates):
            present = {endpoint.id for endpoint in candidates}
            self._current = current = {id: value for id, value in current.items() if id in present}
        total = 0
        best: Endpoint | None = None
        for endpoint in candidates:
            weight = endpoint.instance.weight
            total += weight
            value = current[endpoint.id] = current.get(endpoint.id, 0.0) + weight
            if best is None or value > current[best.id]:
                best = endpoint
        assert best is not None
        current[best.id] -= total
        return best


class Random:
    """Any, with equal chance. ``source`` is injected so that tests repeat."""

    __slots__ = ("_source",)

    def __init__(self, source: random.Random | None = None) -> None:
        self._source = source or random.Random()

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        return candidates[int(self._source.random() * len(candidates))]


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "weighted": Weighted,
    "random": Random,
}


def strategy(name: str) -> Strategy:
    """A new strategy by its name.

    Raises:
        ConfigurationError: there is none of that name.
    """
    try:
        return STRATEGIES[name]()
    except KeyError:
        raise ConfigurationError(f"no balancing strategy {name!r}; there are: {', '.join(sorted(STRATEGIES))}") from None
