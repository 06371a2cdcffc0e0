"""The dependency graph, its cycles, and what it tells about a fleet."""

from __future__ import annotations

import itertools
import random
import time

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.errors import ConfigurationError, DependencyCycle, UnknownName
from fabric.startup.cycles import edges_to_relax, find_cycles
from fabric.startup.default_fleet import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
from fabric.startup.definition import Condition, Dependency, Edge, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.plan import make_plan
from tests.unit.startup.fleets import service

PAIRS = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=24)


def edges_of(pairs: set[tuple[int, int]]) -> list[Edge]:
    return [Edge(dependent=f"n{a}", dependency=f"n{b}") for a, b in sorted(pairs)]


def fleet_of(pairs: set[tuple[int, int]]) -> list[ServiceDefinition]:
    return [service(f"n{a}", *(f"n{b}" for x, b in sorted(pairs) if x == a)) for a in range(8)]


def test_default_fleet_is_whole() -> None:
    """The default fleet has fifteen services in four stages, and comes in the groups that its dependencies allow."""
    graph = ServiceDependencyGraph(SERVICE_DEPENDENCIES)
    assert len(graph) == 15
    assert [stage.name for stage in DEFAULT_STARTUP_STAGES] == [
        "core-infrastructure",
        "event-system",
        "microservices-infrastructure",
        "optional-features",
    ]
    assert sorted(name for stage in DEFAULT_STARTUP_STAGES for name in stage.services) == sorted(graph)
    assert graph.parallel_groups()[-1] == ("api-gateway", "cqrs-coordinator", "rag-service", "read-model-manager")
    assert graph.closure("cqrs-coordinator") == {"prisma-service", "event-store", "message-broker"}
    assert graph.affected_by("cache-manager") == {"api-gateway", "email-service"}


@given(PAIRS)
@settings(deadline=None)
def test_order_puts_dependencies_first(pairs: set[tuple[int, int]]) -> None:
    """The order and the groups are right for every graph without cycles, and a graph with cycles is refused."""
    fleet = fleet_of(pairs)
    cyclic = not nx.is_directed_acyclic_graph(nx.DiGraph(list(pairs)))
    if cyclic:
        with pytest.raises(DependencyCycle) as caught:
            ServiceDependencyGraph(fleet)
        path = caught.value.path
        assert path[0] == path[-1]
        assert all((int(a[1:]), int(b[1:])) in pairs for a, b in itertools.pairwise(path))
        return
    graph = ServiceDependencyGraph(fleet)
    place = {name: index for index, name in enumerate(graph.order())}
    group = {name: index for index, names in enumerate(graph.parallel_groups()) for name in names}
    for a, b in pairs:
        assert place[f"n{b}"] < place[f"n{a}"]
        assert group[f"n{b}"] < group[f"n{a}"]


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_every_cycle_is_found_and_the_fewest_edges_break_them(pairs: set[tuple[int, int]]) -> None:
    """The cycles are those that networkx finds; removing the proposed edges leaves none, and no smaller set does."""
    whole: nx.DiGraph[int] = nx.DiGraph(list(pairs))
    found = find_cycles(edges_of(pairs))
    assert found.complete
    assert len(found.found) == len(list(nx.simple_cycles(whole)))
    assert [len(cycle.path) for cycle in found.found] == sorted(len(cycle.path) for cycle in found.found)
    relax = edges_to_relax(edges_of(pairs))
    left = set(pairs) - {(int(edge.dependent[1:]), int(edge.dependency[1:])) for edge in relax.edges}
    assert nx.is_directed_acyclic_graph(nx.DiGraph(list(left)))
    assert relax.exact
    assert len(relax.edges) == _fewest(frozenset(pairs))


def _fewest(pairs: frozenset[tuple[int, int]]) -> int:
    """The size of a smallest feedback arc set, over all orders of the nodes (Held-Karp)."""
    after = [sum(1 << b for a, b in pairs if a == node) for node in range(8)]
    cost = [0] + [99] * 255
    for mask in range(256):
        for node in range(8):
            if not mask >> node & 1:
                back = (after[node] & mask).bit_count() + (after[node] >> node & 1)
                cost[mask | 1 << node] = min(cost[mask | 1 << node], cost[mask] + back)
    return cost[255]


def test_s4_cycle_is_the_same_over_1000_shuffles() -> None:
    """S4 (systemd#39338, aspire#17758): indirect cycles are named with full path and sources, the same in every order."""
    fleet = [
        ServiceDefinition(
            name=a, dependencies=tuple(Dependency(on=b, source=f"fleet.yaml:{line + i}") for i, b in enumerate(needs))
        )
        for line, (a, needs) in enumerate(
            {"a": ["b"], "b": ["c", "x"], "c": ["d"], "d": ["a"], "x": ["y"], "y": ["b"], "z": []}.items()
        )
    ]
    texts = set()
    rng = random.Random(4)
    for _ in range(1000):
        rng.shuffle(fleet)
        with pytest.raises(DependencyCycle) as caught:
            ServiceDependencyGraph(fleet)
        texts.add(str(caught.value))
        error = caught.value
    assert len(texts) == 1
    assert error.path == ("b", "x", "y", "b")
    assert error.sources == ("fleet.yaml:2", "fleet.yaml:4", "fleet.yaml:5")
    assert error.others == (("a", "b", "c", "d", "a"),)
    assert len(error.relax) == 2
    assert error.exact
    assert "b needs x   fleet.yaml:2" in texts.pop()


def test_too_many_cycles_are_cut_at_the_shortest() -> None:
    """Among millions of cycles the shortest are reported, and that there are more."""
    dense = [Edge(dependent=f"n{a}", dependency=f"n{b}") for a in range(20) for b in range(20) if a != b]
    found = find_cycles(dense, limit=100)
    assert not found.complete
    assert {len(cycle.path) for cycle in found.found} == {3}
    assert len(found.found) == 100


def test_optional_edges_may_close_a_cycle() -> None:
    """An optional edge that would close a cycle is not waited for, and the graph says which."""
    graph = ServiceDependencyGraph(
        [service("a", "b"), ServiceDefinition(name="b", optional_dependencies=("a", "c")), service("c")]
    )
    assert [str(edge) for edge in graph.ignored] == ["b -> a"]
    assert graph.order() == ("c", "b", "a")


def test_unknown_name_says_where_and_what_was_meant() -> None:
    """A name that nobody defines is refused with the place of the edge and the nearest name."""
    with pytest.raises(UnknownName, match="did you mean 'event-store'") as caught:
        ServiceDependencyGraph(
            [service("event-store"), ServiceDefinition(name="x", dependencies=(Dependency(on="event-stor", source="f.yaml:9"),))]
        )
    assert caught.value.source == "f.yaml:9"


def test_change_counts_whole_or_not_at_all() -> None:
    """A transaction that would leave a cycle or an unknown name changes nothing; one that ends whole counts."""
    graph = ServiceDependencyGraph([service("a"), service("b", "a")])

    def close_a_cycle() -> None:
        with graph.change() as change:
            change.put(service("c", "b"))
            change.put(service("a", "c"))

    def break_off() -> None:
        with graph.change() as change:
            change.put(service("d"))
            raise ZeroDivisionError

    with pytest.raises(DependencyCycle):
        close_a_cycle()
    with pytest.raises(ZeroDivisionError):
        break_off()
    with pytest.raises(UnknownName), graph.change() as change:
        change.remove("a")
    assert graph.order() == ("a", "b")
    with graph.change() as change:
        change.put(service("c"))
        change.put(service("b", "c"))
        change.remove("a")
    assert graph.order() == ("c", "b")


def test_critical_path_and_slack_are_weighted() -> None:
    """The critical path is the longest by seconds, and slack is what each may lose without anybody waiting longer."""
    graph = ServiceDependencyGraph([service("a"), service("b"), service("c", "a", "b"), service("d", "b")])
    durations = {"a": 5.0, "b": 2.0, "c": 3.0, "d": 1.0}
    path = graph.critical_path(durations)
    assert (path.path, path.seconds) == (("a", "c"), 8.0)
    assert graph.slack(durations) == {"a": 0.0, "b": 3.0, "c": 0.0, "d": 5.0}


def test_redundant_edges_keep_what_they_alone_ask_for() -> None:
    """A longer way implies an edge only if it asks as much and no service on it may fail without stopping others."""
    fleet = [service("a"), service("b", "a"), service("c", "a", "b")]
    assert [str(edge) for edge in ServiceDependencyGraph(fleet).redundant_edges()] == ["c -> a"]
    soft = [service("a"), service("b", "a", critical=False), service("c", "a", "b")]
    assert ServiceDependencyGraph(soft).redundant_edges() == ()
    weak = ServiceDefinition(name="b", critical=True, dependencies=(Dependency(on="a", condition=Condition.STARTED),))
    assert ServiceDependencyGraph([service("a"), weak, service("c", "a", "b")]).redundant_edges() == ()


def test_ten_thousand_services_are_planned_within_a_second() -> None:
    """A plan of 10,000 services and 50,000 edges takes seconds of nobody's life; the bound here is generous for shared cores."""
    rng = random.Random(1)
    needs: list[set[int]] = [set() for _ in range(10_000)]
    for _ in range(50_000):
        a, b = sorted(rng.sample(range(10_000), 2))
        needs[b].add(a)
    fleet = tuple(service(f"s{i}", *(f"s{j}" for j in sorted(group))) for i, group in enumerate(needs))
    begin = time.process_time()
    plan = make_plan(RunRequested(run="r", services=fleet))
    seconds = time.process_time() - begin
    assert len(plan.nodes) == 10_000
    assert seconds < 5.0


def test_double_definition_is_refused() -> None:
    """The same name twice is an error, and so is the same dependency twice."""
    with pytest.raises(ConfigurationError, match="defined twice"):
        ServiceDependencyGraph([service("a"), service("a")])
    with pytest.raises(ConfigurationError, match="names b twice"):
        service("a", "b", "b")
