"""Who needs whom: the services of a fleet and their edges, checked as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from fabric.errors import ConfigurationError, DependencyCycle, UnknownName
from fabric.startup import paths
from fabric.startup.definition import Condition, Edge, ServiceDefinition

_STRENGTH = {Condition.STARTED: 0, Condition.HEALTHY: 1, Condition.COMPLETED: 2}


class ServiceDependencyGraph:
    """The services and their edges. What it holds is always whole: every name defined, no cycle of required edges.

    Optional edges may close a cycle; those that do are not waited for (``ignored``).

    Raises:
        ConfigurationError: a service is defined twice.
        UnknownName: a service needs one that is not defined.
        DependencyCycle: the shortest of them; its text says how many there are and which edges break them all.
    """

    def __init__(self, services: Iterable[ServiceDefinition] | Mapping[str, ServiceDefinition] = ()) -> None:
        self._adopt(services.values() if isinstance(services, Mapping) else services)

    def _adopt(self, services: Iterable[ServiceDefinition]) -> None:
        """Takes ``services`` over if they are whole, and else changes nothing."""
        by_name = collect(services)
        edges = tuple(edge for service in by_name.values() for edge in service.edges())
        for edge in edges:
            if edge.dependency not in by_name:
                raise UnknownName("service", edge.dependency, used_by=edge.dependent, known=tuple(by_name), source=edge.source)
        waited, ignored = break_cycles(by_name, edges)
        needs: dict[str, list[Edge]] = {name: [] for name in by_name}
        needed_by: dict[str, list[Edge]] = {name: [] for name in by_name}
        for edge in waited:
            needs[edge.dependent].append(edge)
            needed_by[edge.dependency].append(edge)
        names = {name: tuple(edge.dependency for edge in group) for name, group in needs.items()}
        order = paths.topological_order(names)
        assert order is not None, "break_cycles left a cycle"
        self._services, self._edges, self._ignored, self._order = by_name, edges, ignored, order
        self._needs, self._needed_by, self._names = needs, needed_by, names

    @property
    def services(self) -> Mapping[str, ServiceDefinition]:
        """Every service by its name, in the order they were given."""
        return MappingProxyType(self._services)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges as they were written, ignored ones too."""
        return self._edges

    @property
    def ignored(self) -> tuple[Edge, ...]:
        """Optional edges that nobody waits for, because together with others they would close a cycle."""
        return self._ignored

    def __getitem__(self, name: str) -> ServiceDefinition:
        return self._services[name]

    def __contains__(self, name: object) -> bool:
        return name in self._services

    def __len__(self) -> int:
        return len(self._services)

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def needs(self, name: str) -> tuple[Edge, ...]:
        """The edges that ``name`` waits for."""
        return tuple(self._needs[name])

    def needed_by(self, name: str) -> tuple[Edge, ...]:
        """The edges that wait for ``name``."""
        return tuple(self._needed_by[name])

    def closure(self, name: str) -> set[str]:
        """Everything that ``name`` needs by required edges, directly or not."""
        return paths.reachable([name], {at: [e.dependency for e in group if not e.optional] for at, group in self._needs.items()})

    def affected_by(self, name: str) -> set[str]:
        """Everything that needs ``name`` by required edges, directly or not."""
        return paths.reachable(
            [name], {at: [e.dependent for e in group if not e.optional] for at, group in self._needed_by.items()}
        )

    def jobs(self) -> frozenset[str]:
        """Services whose end someone waits for."""
        return frozenset(edge.dependency for edge in self._edges if edge.condition is Condition.COMPLETED)

    def order(self) -> tuple[str, ...]:
        """Dependencies first; by name where there is a choice."""
        return self._order

    def parallel_groups(self) -> tuple[tuple[str, ...], ...]:
        """Services that may start together, group after group, each as early as it can."""
        level: dict[str, int] = {}
        for name in self._order:
            level[name] = 1 + max((level[need] for need in self._names[name]), default=-1)
        groups: list[list[str]] = [[] for _ in range(1 + max(level.values(), default=-1))]
        for name in sorted(level):
            groups[level[name]].append(name)
        return tuple(tuple(group) for group in groups)

    def critical_path(self, durations: Mapping[str, float] | None = None) -> paths.CriticalPath:
        """The chain that decides how long everything takes; without ``durations`` each service weighs one second."""
        return paths.critical_path(self._order, self._names, durations or {})

    def slack(self, durations: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds by which each service may take longer before the whole does."""
        return paths.slack(self._order, self._names, durations or {})

    def redundant_edges(self) -> tuple[Edge, ...]:
        """Edges that may go without changing what waits for what (what a transitive reduction leaves out).

        An edge is implied by a longer way only if that way asks as much of the dependency, and if no service on it is one
        that could fail without stopping its dependents while the dependency itself would.
        """
        return tuple(edge for edges in self._needs.values() for edge in edges if self._implied(edge))

    def _implied(self, edge: Edge) -> bool:
        hard = self._services[edge.dependency].critical and not edge.optional
        seen: set[str] = set()
        todo = [
            first.dependent
            for first in self._needed_by[edge.dependency]
            if first is not edge and _STRENGTH[first.condition] >= _STRENGTH[edge.condition] and (not first.optional)
        ]
        while todo:
            name = todo.pop()
            if name == edge.dependent:
                return True
            if name in seen or (hard and not self._services[name].critical):
                continue
            seen.add(name)
            todo.extend(step.dependent for step in self._needed_by[name] if not step.optional)
        return False

    @contextlib.contextmanager
    def change(self) -> Iterator[GraphChange]:
        """Several changes that count together or not at all.

        They are checked when the block ends; if it raises or what it leaves is not whole, the graph is as before.

        Raises:
            ConfigurationError: as for a new graph.
        """
        change = GraphChange(self._services)
        yield change
        self._adopt(change.services.values())


class GraphChange:
    """What a transaction has in mind. ``services`` is the fleet as it would be."""

    def __init__(self, services: Mapping[str, ServiceDefinition]) -> None:
        self.services = dict(services)

    def put(self, service: ServiceDefinition) -> None:
        """Adds it, or replaces the one of its name."""
        self.services[service.name] = service

    def remove(self, name: str) -> None:
        """Takes it out; whatever still needs it by then makes the transaction fail."""
        if name not in self.services:
            raise UnknownName("service", name, used_by="the change", known=tuple(self.services))
        del self.services[name]


def collect(services: Iterable[ServiceDefinition]) -> dict[str, ServiceDefinition]:
    """By name.

    Raises:
        ConfigurationError: a name comes twice.
    """
    by_name: dict[str, ServiceDefinition] = {}
    for service in services:
        if service.name in by_name:
            first = by_name[service.name].source
            raise ConfigurationError(
                f"{service.name} is defined twice" + (f", first at {first}" if first else ""), source=service.source
            )
        by_name[service.name] = service
    return by_name


def break_cycles(nodes: Iterable[str], edges: Sequence[Edge]) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    """Splits ``edges`` into those that are waited for and optional ones that would close a cycle.

    Raises:
        DependencyCycle: the required edges alone have one.
    """
    needs: dict[str, list[str]] = {node: [] for node in nodes}
    for edge in edges:
        needs[edge.dependent].append(edge.dependency)
    if paths.topological_order(needs) is not None:
        return tuple(edges), ()
    required = [edge for edge in edges if not edge.optional]
    needs = {node: [] for node in needs}
    for edge in required:
        needs[edge.dependent].append(edge.dependency)
    if paths.topological_order(needs) is None:
        raise cycle_error(required)
    ignored: set[Edge] = set()
    for edge in sorted((edge for edge in edges if edge.optional), key=lambda edge: (edge.dependent, edge.dependency)):
        if edge.dependent == edge.dependency or edge.dependent in paths.reachable([edge.dependency], needs):
            ignored.add(edge)
        else:
            needs[edge.dependent].append(edge.dependency)
    return tuple(edge for edge in edges if edge not in ignored), tuple(edge for edge in edges if edge in ignored)


def cycle_error(edges: Sequence[Edge]) -> DependencyCycle:
    """The error for edges that have a cycle, with all that helps to repair it."""
    # networkx takes a quarter of a second to import, which a fleet without cycles need not pay.
    from fabric.startup.cycles import edges_to_relax, find_cycles

    cycles = find_cycles(edges)
    relax = edges_to_relax(edges)
    first = cycles.found[0]
    return DependencyCycle(
        first.path,
        sources=[edge.source for edge in first.edges],
        others=[cycle.path for cycle in cycles.found[1:]],
        relax=[(edge.dependent, edge.dependency) for edge in relax.edges],
        exact=relax.exact,
    )
