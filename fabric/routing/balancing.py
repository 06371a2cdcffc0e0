"""Which of several instances gets the next call. A strategy only chooses: no I/O, no timers, no await."""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final, Protocol

from fabric.errors import ConfigurationError
from fabric.routing.registry import Endpoint
from fabric.wire.message import ServiceMessage


class Strategy(Protocol):
    """One per target and hub, so that it may keep a place in the round or current weights."""

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        """One of ``candidates``, which is never empty and ordered by instance id."""
        ...


class _Turn:
    """A place in the round of instances, kept by id: the candidates of a retry are fewer than those of a first attempt, and
    a place kept by index would pass over the same ones again and again."""

    __slots__ = ("_chance", "_index", "_last")

    def __init__(self, chance: random.Random | None) -> None:
        self._chance = chance
        self._last: str | None = None
        self._index = 0

    def next(self, candidates: Sequence[Endpoint]) -> int:
        """The index of the one after the last; at first any, or all hubs would begin with the same."""
        count = len(candidates)
        if self._last is None:
            return int(self._chance.random() * count) if self._chance is not None else 0
        if self._index < count and candidates[self._index].id == self._last:
            return (self._index + 1) % count
        return bisect_right(candidates, self._last, key=attrgetter("id")) % count

    def took(self, index: int, endpoint: Endpoint) -> Endpoint:
        self._index, self._last = index, endpoint.id
        return endpoint


class RoundRobin:
    """Each in turn. Fair in numbers whatever the calls cost."""

    __slots__ = ("_turn",)

    def __init__(self, chance: random.Random | None = None) -> None:
        self._turn = _Turn(chance)

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        index = self._turn.next(candidates)
        return self._turn.took(index, candidates[index])


class LeastConnections:
    """The one with the fewest calls under way, ours and those of others that it reports; equals take turns, or the first would
    get every lone call."""

    __slots__ = ("_turn",)

    def __init__(self, chance: random.Random | None = None) -> None:
        self._turn = _Turn(chance)

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        best = start = self._turn.next(candidates)
        for index in (*range(start + 1, len(candidates)), *range(start)):
            other, least = candidates[index], candidates[best]
            if other.pending + other.others < least.pending + least.others:
                best = index
        return self._turn.took(best, candidates[best])


class Weighted:
    """In proportion to the announced weights, spread evenly (smooth weighted round-robin, as nginx does it)."""

    __slots__ = ("_chance", "_current")

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance
        self._current: dict[str, float] = {}

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        current = self._current
        if len(current) > 2 * len(candidates) + _STALE:
            present = {endpoint.id for endpoint in candidates}
            self._current = current = {id: value for id, value in current.items() if id in present}
        total = 0
        best: Endpoint | None = None
        for endpoint in candidates:
            weight = endpoint.instance.weight
            total += weight
            value = current.get(endpoint.id)
            if value is None:  # a newcomer begins anywhere in its round, or all hubs would begin with the same
                value = self._chance.random() * weight if self._chance is not None else 0.0
            value = current[endpoint.id] = value + weight
            if best is None or value > current[best.id]:
                best = endpoint
        assert best is not None
        current[best.id] -= total
        return best


class Random:
    """Any, with equal chance."""

    __slots__ = ("_chance",)

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        return candidates[int(self._chance.random() * len(candidates))]


class PowerOfTwo:
    """The better of two drawn at random (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001): the
    one where a call is likely to be done sooner, by how long its answers take lately and how many it has to give. Quick like
    ``random``, without the herd that goes for the one best.

    Args:
        now: monotonic seconds, as those that the latencies were observed with.
    """

    __slots__ = ("_chance", "_now")

    def __init__(self, chance: random.Random | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._chance, self._now = chance or random.Random(), now

    def choose(self, candidates: Sequence[Endpoint], request: ServiceMessage | None = None) -> Endpoint:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        draw = self._chance.random
        first = int(draw() * count)
        second = int(draw() * (count - 1))
        one, other = candidates[first], candidates[second + (second >= first)]
        now = self._now()
        return one if _cost(one, now) <= _cost(other, now) else other


def _cost(endpoint: Endpoint, now: float) -> float:
    load = endpoint.pending + endpoint.others
    latency = endpoint.latency.value(now)
    if not latency and load:
        latency = _UNKNOWN  # it has calls and has answered none: it may be the slowest of all
    return latency * (load + 1) / endpoint.instance.weight


_UNKNOWN: Final = 1.0
_STALE: Final = 64

STRATEGIES: Final[Mapping[str, Callable[[random.Random | None], Strategy]]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "weighted": Weighted,
    "random": Random,
    "p2c": PowerOfTwo,
}


def strategy(name: str, chance: random.Random | None = None) -> Strategy:
    """A new strategy by its name.

    Args:
        chance: where it begins; None begins with the first, always.

    Raises:
        ConfigurationError: there is none of that name.
    """
    make = STRATEGIES.get(name)
    if make is None:
        raise ConfigurationError(f"no balancing strategy {name!r}; there are: {', '.join(sorted(STRATEGIES))}")
    return make(chance)
