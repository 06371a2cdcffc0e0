"""Cycles among edges: all of them, in the same order every time, and the fewest edges that break them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import networkx as nx

from fabric.startup.definition import Edge
from fabric.startup.paths import topological_order

_SEARCH_STEPS = 1_000_000
"""Edges that the exact search may walk along in each knot before the heuristic takes over: under a second."""

_LARGE = 300
"""Services in one knot from which on all cycles are too many to look at, and the fewest edges too hard to find: in a second or
two the answer is a short cycle through each of some services, and edges that break them all."""

Node = TypeVar("Node", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """Services that wait for each other.

    Attributes:
        path: starts and ends with the same service, the one whose name comes first.
        edges: one for each step of the path.
    """

    path: tuple[str, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycles:
    """What was found.

    Attributes:
        found: shortest first, then by name.
        complete: False when there are more than were asked for; the ones found are the shortest then, or in a knot of more
            than 300 services a shortest one through each of as many services as there is time for.
    """

    found: tuple[Cycle, ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """Edges that break every cycle when they are made optional.

    Attributes:
        edges: the edges, by name.
        exact: True: no smaller set does it. False: the search was too large, and a heuristic found these (no edge of them
            is superfluous, but there may be a smaller set; in a knot of more than 300 services some may be superfluous too).
    """

    edges: tuple[Edge, ...]
    exact: bool


def find_cycles(edges: Iterable[Edge], *, limit: int = 1000) -> Cycles:
    """Every cycle, at most ``limit`` of them. The same for the same edges in whatever order.

    By Johnson's algorithm ("Finding all the elementary circuits of a directed graph", 1975), as networkx has it.
    """
    by_pair = _by_pair(edges)
    # Numbers in the order of the names: sets of strings are iterated in another order in every process.
    names = sorted({name for pair in by_pair for name in pair})
    number = {name: index for index, name in enumerate(names)}
    whole: nx.DiGraph[int] = nx.DiGraph(sorted((number[a], number[b]) for a, b in by_pair))
    paths: list[list[int]] = []
    complete = True
    for knot in _knots(whole):
        room = limit - len(paths)
        if len(knot) > _LARGE:
            complete = False
            paths.extend(_short(whole, knot)[:room])
            continue
        some = list(itertools.islice(nx.simple_cycles(whole.subgraph(knot)), room + 1))
        if len(some) > room:
            complete = False
            some = _shortest(whole.subgraph(knot), room)
        paths.extend(some)
    found = []
    for path in paths:
        start = path.index(min(path))
        turned = [names[index] for index in (*path[start:], *path[:start], path[start])]
        steps = tuple(by_pair[step] for step in itertools.pairwise(turned))
        found.append(Cycle(path=tuple(turned), edges=steps))
    return Cycles(found=tuple(sorted(found, key=lambda cycle: (len(cycle.path), cycle.path))), complete=complete)


def edges_to_relax(edges: Iterable[Edge], *, prefer: Callable[[Edge], bool] = lambda edge: False) -> Relaxation:
    """The fewest edges to make optional so that no cycle is left (a minimum feedback arc set).

    Args:
        edges: all edges.
        prefer: True for edges that one would rather make optional, where there is a choice of equal size.
    """
    by_pair = _by_pair(edges)
    whole: nx.DiGraph[str] = nx.DiGraph(sorted(by_pair))
    chosen: list[tuple[str, str]] = []
    exact = True
    for knot in _knots(whole):
        inside = {node: sorted(other for other in whole[node] if other in knot) for node in sorted(knot)}
        found = None if len(knot) > _LARGE else _fewest(inside, lambda pair: (not prefer(by_pair[pair]), pair))
        if found is None:
            exact = False
            found = _some(inside) if len(knot) > _LARGE else _few(inside)
        chosen.extend(found)
    return Relaxation(edges=tuple(by_pair[pair] for pair in sorted(chosen)), exact=exact)


def _by_pair(edges: Iterable[Edge]) -> dict[tuple[str, str], Edge]:
    return {(edge.dependent, edge.dependency): edge for edge in edges}


def _knots(graph: nx.DiGraph[Node]) -> list[set[Node]]:
    """The strongly connected components that have a cycle."""
    components = [set(component) for component in nx.strongly_connected_components(graph)]
    return sorted((c for c in components if len(c) > 1 or graph.has_edge(*[next(iter(c))] * 2)), key=min)


def _shortest(graph: nx.DiGraph[int], limit: int) -> list[list[int]]:
    """The ``limit`` shortest cycles of a graph that is known to have more."""
    found: list[list[int]] = []
    for length in itertools.count(1):
        if len(found) >= limit:
            break
        found = sorted(itertools.islice(nx.simple_cycles(graph, length_bound=length), 50 * limit), key=lambda c: (len(c), c))
    return found[:limit]


def _short(graph: nx.DiGraph[int], knot: set[int]) -> list[list[int]]:
    """A shortest cycle through each of some nodes of a large knot, the first by name, until the time for it is used up."""
    after = {node: sorted(other for other in graph[node] if other in knot) for node in knot}
    found: dict[frozenset[int], list[int]] = {}
    steps = _SEARCH_STEPS
    for root in sorted(knot):
        if steps <= 0:
            break
        parent = {root: root}
        queue = deque([root])
        while queue:
            node = queue.popleft()
            steps -= len(after[node])
            if root in after[node]:
                path = [node]
                while path[-1] != root:
                    path.append(parent[path[-1]])
                path.reverse()
                found.setdefault(frozenset(path), path)
                break
            for other in after[node]:
                if other not in parent:
                    parent[other] = node
                    queue.append(other)
    return sorted(found.values(), key=lambda path: (len(path), path))


_Pair = tuple[str, str]


def _fewest(knot: Mapping[str, Sequence[str]], rank: Callable[[_Pair], tuple[bool, _Pair]]) -> list[_Pair] | None:
    """A smallest set by iterative deepening: one edge of any shortest cycle has to go. None when that takes too long."""
    steps = _SEARCH_STEPS

    def search(removed: set[_Pair], depth: int) -> bool:
        nonlocal steps
        cycle, walked = _a_shortest_cycle(knot, removed)
        steps -= walked
        if cycle is None:
            return True
        for pair in sorted(cycle, key=rank) if depth else ():
            if steps <= 0:
                return False
            removed.add(pair)
            if search(removed, depth - 1):
                return True
            removed.discard(pair)
        return False

    removed: set[_Pair] = set()
    for depth in itertools.count(1):
        if steps <= 0:
            break
        if search(removed, depth):
            return sorted(removed)
    return None


def _a_shortest_cycle(knot: Mapping[str, Sequence[str]], removed: set[_Pair]) -> tuple[list[_Pair] | None, int]:
    """One of the shortest cycles that ``removed`` leaves, and how many edges were walked along to find it."""
    best: list[_Pair] | None = None
    left = {node: [other for other in others if (node, other) not in removed] for node, others in knot.items()}
    walked = 0
    while topological_order(left) is None:
        root = next(iter(left))
        parent: dict[str, str] = {}
        depth = {root: 0}
        queue = deque([root])
        while queue and (best is None or depth[queue[0]] + 1 < len(best)):
            node = queue.popleft()
            for other in left[node]:
                walked += 1
                if other == root:
                    best = [(node, root)]
                    while node != root:
                        best.append((parent[node], node))
                        node = parent[node]
                    queue.clear()
                    break
                if other not in depth:
                    depth[other], parent[other] = depth[node] + 1, node
                    queue.append(other)
        walked += len(left)
        # No cycle through this node is shorter than the best, so the search goes on without it.
        left = {node: [other for other in others if other != root] for node, others in left.items() if node != root}
    return best, walked


def _some(knot: Mapping[str, Sequence[str]]) -> list[_Pair]:
    """Edges that break every cycle, found in one walk: those that lead back to where a depth-first search has come from."""
    chosen: list[_Pair] = []
    done: set[str] = set()
    for root in sorted(knot):
        if root in done:
            continue
        way = {root}
        stack = [(root, iter(knot[root]))]
        while stack:
            node, others = stack[-1]
            for other in others:
                if other in way:
                    chosen.append((node, other))
                elif other not in done:
                    way.add(other)
                    stack.append((other, iter(knot[other])))
                    break
            else:
                stack.pop()
                way.discard(node)
                done.add(node)
    return chosen


def _few(knot: Mapping[str, Sequence[str]]) -> list[_Pair]:
    """Few edges by the greedy order of Eades, Lin and Smyth (1993), then without those that turn out superfluous."""
    after = {node: {other for other in others if other != node} for node, others in knot.items()}
    before: dict[str, set[str]] = {node: set() for node in knot}
    for node, others in after.items():
        for other in others:
            before[other].add(node)
    left: list[str] = []
    right: list[str] = []
    rest = sorted(knot)
    while rest:
        sink = next((node for node in rest if not after[node]), None)
        source = next((node for node in rest if not before[node]), None)
        node = sink or source or max(rest, key=lambda name: (len(after[name]) - len(before[name]), name))
        (right if node is sink else left).append(node)
        rest.remove(node)
        for other in after.pop(node):
            before[other].discard(node)
        for other in before.pop(node):
            after[other].discard(node)
    place = {node: index for index, node in enumerate((*left, *reversed(right)))}
    chosen = sorted((a, b) for a, others in knot.items() for b in others if place[a] >= place[b])
    kept: nx.DiGraph[str] = nx.DiGraph((a, b) for a, others in knot.items() for b in others if place[a] < place[b])
    needed = []
    for a, b in chosen:
        if a == b or (kept.has_node(a) and kept.has_node(b) and nx.has_path(kept, b, a)):
            needed.append((a, b))
        else:
            kept.add_edge(a, b)
    return needed
