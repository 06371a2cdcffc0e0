"""Cycles in fleets of thousands, where there are more of them than anybody could list."""

from __future__ import annotations

import random

import pytest

from fabric.errors import DependencyCycle
from fabric.startup.cycles import edges_to_relax, find_cycles
from fabric.startup.definition import Dependency, Edge, ServiceDefinition
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.paths import topological_order


def knot(services: int, edges: int, seed: int) -> dict[str, set[str]]:
    """Random edges among services that all wait for each other along one big ring."""
    chance = random.Random(seed)
    names = [f"s{number}" for number in range(services)]
    needs = {name: {names[(index + 1) % services]} for index, name in enumerate(names)}
    for _ in range(edges - services):
        needs[chance.choice(names)].add(chance.choice(names))
    return needs


def edges_of(needs: dict[str, set[str]], order: random.Random | None = None) -> list[Edge]:
    edges = [Edge(dependent=a, dependency=b) for a, others in needs.items() for b in sorted(others)]
    if order is not None:
        order.shuffle(edges)
    return edges


@pytest.mark.parametrize("seed", range(3))
def test_each_found_cycle_is_one_and_the_order_of_edges_does_not_matter(seed: int) -> None:
    """S4 (systemd#39338): every step of a path is an edge, no service comes twice, the same over shuffles."""
    needs = knot(2000, 8000, seed)
    found = find_cycles(edges_of(needs))
    assert not found.complete
    assert found.found
    for cycle in found.found:
        assert cycle.path[0] == cycle.path[-1] == min(cycle.path)
        assert len(set(cycle.path)) == len(cycle.path) - 1
        assert all(b in needs[a] for a, b in zip(cycle.path, cycle.path[1:], strict=False))
    assert find_cycles(edges_of(needs, random.Random(seed))) == found


@pytest.mark.parametrize("seed", range(3))
def test_the_edges_to_relax_leave_no_cycle(seed: int) -> None:
    """They may not be the fewest in so large a knot, which the answer says; without them nothing waits for itself."""
    needs = knot(2000, 8000, seed)
    relaxation = edges_to_relax(edges_of(needs))
    assert not relaxation.exact
    gone = {(edge.dependent, edge.dependency) for edge in relaxation.edges}
    left = {a: [b for b in others if (a, b) not in gone] for a, others in needs.items()}
    assert topological_order(left) is not None


def test_a_cycle_through_thousands_is_refused_with_a_path() -> None:
    """A fleet of five thousand that one edge closes: the error has the whole path of a cycle through that edge."""
    chance = random.Random(7)
    needs = {number: {chance.randrange(max(0, number - 300), number) for _ in range(4)} for number in range(1, 5000)}
    needs[0] = {4999}
    fleet = [
        ServiceDefinition(name=f"s{number}", dependencies=tuple(Dependency(on=f"s{other}") for other in sorted(others)))
        for number, others in needs.items()
    ]
    with pytest.raises(DependencyCycle) as caught:
        ServiceDependencyGraph(fleet)
    assert caught.value.path[:2] == ("s0", "s4999")
    assert caught.value.path[-1] == "s0"
