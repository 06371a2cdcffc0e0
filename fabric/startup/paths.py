"""Longest paths through weighted nodes: when what can start at the earliest, and what has time to spare.

All functions take ``order``, a topological order of the nodes, and ``needs``, the nodes that each node waits for. Weights
are seconds; a node without one weighs ``DEFAULT_WEIGHT``.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

DEFAULT_WEIGHT = 1.0
"""Seconds that a node is taken to last of which nothing is known. Only its ratio to itself matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalPath:
    """The longest chain: nothing that is not on it can make the whole faster.

    Attributes:
        path: from the first to start to the last to be ready.
        seconds: the sum of their weights.
    """

    path: tuple[str, ...]
    seconds: float


def topological_order(needs: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    """The keys of ``needs``, each after what it needs, by name where there is a choice. None if there is a cycle."""
    missing = dict.fromkeys(needs, 0)
    needed_by: dict[str, list[str]] = {node: [] for node in needs}
    for node, others in needs.items():
        for other in others:
            missing[node] += 1
            needed_by[other].append(node)
    free = [node for node, count in missing.items() if not count]
    heapq.heapify(free)
    order: list[str] = []
    while free:
        node = heapq.heappop(free)
        order.append(node)
        for other in needed_by[node]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(free, other)
    return tuple(order) if len(order) == len(missing) else None


def reachable(start: Iterable[str], after: Mapping[str, Iterable[str]]) -> set[str]:
    """What can be reached from ``start`` along ``after``, without the start itself unless a cycle leads back to it."""
    found: set[str] = set()
    todo = list(start)
    while todo:
        for node in after.get(todo.pop(), ()):
            if node not in found:
                found.add(node)
                todo.append(node)
    return found


def earliest_ends(order: Sequence[str], needs: Mapping[str, Iterable[str]], weights: Mapping[str, float]) -> dict[str, float]:
    """When each node ends if everything starts as soon as its needs have ended."""
    ends: dict[str, float] = {}
    for node in order:
        ends[node] = max((ends[need] for need in needs.get(node, ())), default=0.0) + weights.get(node, DEFAULT_WEIGHT)
    return ends


def remaining(order: Sequence[str], needs: Mapping[str, Iterable[str]], weights: Mapping[str, float]) -> dict[str, float]:
    """The longest path from the start of each node to the end of everything, its own weight included."""
    below = dict.fromkeys(order, 0.0)
    for node in reversed(order):
        below[node] += weights.get(node, DEFAULT_WEIGHT)
        for need in needs.get(node, ()):
            below[need] = max(below[need], below[node])
    return below


def critical_path(order: Sequence[str], needs: Mapping[str, Iterable[str]], weights: Mapping[str, float]) -> CriticalPath:
    """The longest chain; of several the one whose names come first."""
    ends = earliest_ends(order, needs, weights)
    if not ends:
        return CriticalPath(path=(), seconds=0.0)
    node: str | None = min(ends, key=lambda name: (-ends[name], name))
    seconds = ends[node] if node is not None else 0.0
    path: list[str] = []
    while node is not None:
        path.append(node)
        node = min(needs.get(node, ()), key=lambda name: (-ends[name], name), default=None)
    return CriticalPath(path=tuple(reversed(path)), seconds=seconds)


def slack(order: Sequence[str], needs: Mapping[str, Iterable[str]], weights: Mapping[str, float]) -> dict[str, float]:
    """Seconds by which each node may take longer before the whole does."""
    ends = earliest_ends(order, needs, weights)
    below = remaining(order, needs, weights)
    whole = max(ends.values(), default=0.0)
    return {node: max(0.0, whole - (ends[node] - weights.get(node, DEFAULT_WEIGHT) + below[node])) for node in order}
