"""A run request, checked and worked out: what waits for what, in which order the queue goes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fabric.errors import ConfigurationError, UnknownName
from fabric.startup import paths
from fabric.startup.definition import Edge, RetryPolicy, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph, break_cycles
from fabric.startup.stages import RunOptions, StartupStage

SINGLE_ATTEMPT = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the engine goes by. Gates are nodes beside the services, named ``gate:STAGE``.

    Attributes:
        run: the id of the run.
        services: the whole fleet by name; ``skipped`` are those that this run leaves out.
        needs: for each service the edges it waits for.
        dependents: for each service those that wait for it.
        stage_of: the index of the stage of each service that is in one; it waits for the gates of all stages before.
        gates_naming: for each service the indices of the gates that look at it.
        gate_optional: for each stage the optional services that its gate waits for: without those that wait for it.
        quorum: how many instances make each service ready.
        rank: the place of each service in the queue; the lower goes first.
        urgent: services that something critical needs, or that are critical.
        retry: what holds for each service.
        nodes, node_needs: services and gates in topological order, and what each waits for.
    """

    run: str
    services: Mapping[str, ServiceDefinition]
    stages: tuple[StartupStage, ...]
    options: RunOptions
    skipped: frozenset[str]
    jobs: frozenset[str]
    needs: Mapping[str, tuple[Edge, ...]]
    dependents: Mapping[str, tuple[str, ...]]
    stage_of: Mapping[str, int]
    gates_naming: Mapping[str, tuple[int, ...]]
    gate_optional: tuple[tuple[str, ...], ...]
    quorum: Mapping[str, int]
    rank: Mapping[str, int]
    urgent: frozenset[str]
    retry: Mapping[str, RetryPolicy]
    nodes: tuple[str, ...]
    node_needs: Mapping[str, tuple[str, ...]]
    durations: Mapping[str, float]


def gate_name(stage: StartupStage) -> str:
    """The name of a stage's gate among the nodes."""
    return f"gate:{stage.name}"


def make_plan(request: RunRequested) -> Plan:
    """Checks everything that can be known before anything is started.

    Raises:
        UnknownName: a dependency, stage or gate names what is not defined.
        DependencyCycle: services wait for each other, maybe by way of a gate.
        ConfigurationError: two stages of one name or one service in two; a gate asks for a service without health check or
            for more instances than there are; a service needs more of a resource than the budget has.
    """
    graph = ServiceDependencyGraph(request.services)
    stages, options = request.stages, request.options
    stage_of = check_stages(graph, stages)
    check_budgets(graph, options)
    skipped = _optional(graph, stages) if options.skip_optional else frozenset()
    edges = [
        edge for name in graph for edge in graph.needs(name) if edge.dependent not in skipped and edge.dependency not in skipped
    ]
    waited, _ = break_cycles([*graph, *map(gate_name, stages)], [*edges, *gate_edges(stages, stage_of, skipped)])
    needs: dict[str, list[Edge]] = {name: [] for name in graph}
    node_needs: dict[str, list[str]] = {name: [] for name in (*graph, *map(gate_name, stages)) if name not in skipped}
    dependents: dict[str, list[str]] = {name: [] for name in graph}
    for edge in waited:
        node_needs[edge.dependent].append(edge.dependency)
        if edge.dependent in graph and edge.dependency in graph:
            needs[edge.dependent].append(edge)
            dependents[edge.dependency].append(edge.dependent)
    nodes = paths.topological_order(node_needs)
    assert nodes is not None, "break_cycles left a cycle"
    gate_optional = tuple(
        tuple(name for name in stage.health_gate.optional if name in node_needs[gate_name(stage)]) for stage in stages
    )
    durations = {name: seconds for name, seconds in request.durations.items() if 0 <= seconds < math.inf}
    weights = {**durations, **{gate_name(stage): stage.health_gate.stable_for for stage in stages}}
    below = paths.remaining(nodes, node_needs, weights)
    required = [edge for edge in waited if not edge.optional]
    urgent = _urgent(graph, required)
    ranked = sorted((name for name in graph if name not in skipped), key=lambda name: (name not in urgent, -below[name], name))
    gates_naming: dict[str, list[int]] = {}
    for index, stage in enumerate(stages):
        for name in (*stage.health_gate.required, *gate_optional[index]):
            gates_naming.setdefault(name, []).append(index)
    return Plan(
        run=request.run,
        services=graph.services,
        stages=stages,
        options=options,
        skipped=skipped,
        jobs=graph.jobs(),
        needs={name: tuple(group) for name, group in needs.items()},
        dependents={name: tuple(group) for name, group in dependents.items()},
        stage_of=stage_of,
        gates_naming={name: tuple(group) for name, group in gates_naming.items()},
        gate_optional=gate_optional,
        quorum={name: _quorum(graph[name], stages, stage_of.get(name), gates_naming.get(name, ())) for name in graph},
        rank={name: place for place, name in enumerate(ranked)},
        urgent=urgent,
        retry={name: _retry(graph[name], stages, stage_of.get(name)) for name in graph},
        nodes=nodes,
        node_needs={name: tuple(group) for name, group in node_needs.items()},
        durations=durations,
    )


def check_stages(graph: ServiceDependencyGraph, stages: Sequence[StartupStage]) -> dict[str, int]:
    """The stage of each service that is in one.

    Raises:
        ConfigurationError: the first of ``stage_problems``.
    """
    for _, _, error in stage_problems(graph, stages):
        raise error
    return {service: index for index, stage in enumerate(stages) for service in stage.services}


def stage_problems(
    graph: ServiceDependencyGraph, stages: Sequence[StartupStage]
) -> Iterator[tuple[str, str, ConfigurationError]]:
    """Everything for which stages are refused: a rule's name, the stage, and the error."""
    stage_of: dict[str, str] = {}
    names: set[str] = set()
    jobs, known = graph.jobs(), tuple(graph)
    for stage in stages:
        if stage.name in names:
            yield "duplicate", stage.name, ConfigurationError(f"there are two stages named {stage.name}", source=stage.source)
        names.add(stage.name)
        if gate_name(stage) in graph:
            message = (
                f"a service is named {gate_name(stage)}, which stands for the gate of stage {stage.name}; rename one of them"
            )
            yield "duplicate", stage.name, ConfigurationError(message, source=graph[gate_name(stage)].source)
        for service in stage.services:
            if service not in graph:
                used_by = f"stage {stage.name}"
                error: ConfigurationError = UnknownName("service", service, used_by=used_by, known=known, source=stage.source)
                yield "unknown-service", stage.name, error
            elif service in stage_of:
                message = f"{service} is in the stages {stage_of[service]} and {stage.name}"
                yield "two-stages", stage.name, ConfigurationError(message, source=stage.source)
            stage_of[service] = stage.name
        gate = stage.health_gate
        source, used_by = gate.source or stage.source, f"the gate of stage {stage.name}"
        for service in (*gate.required, *gate.optional):
            if service not in graph:
                error = UnknownName("service", service, used_by=used_by, known=known, source=source)
                yield "unknown-service", stage.name, error
                continue
            if not graph[service].health_checks and service not in jobs:
                message = f"{used_by} asks for {service}, which has no health check and so can never vote"
                advice = "give it one or take it out of the gate"
                yield "gate-without-check", stage.name, ConfigurationError(f"{message}; {advice}", source=source)
            if gate.instances.get(service, 1) > graph[service].instances:
                message = (
                    f"{used_by} wants {gate.instances[service]} instances of {service}, which has {graph[service].instances}"
                )
                yield "too-few-instances", stage.name, ConfigurationError(message, source=source)


def check_budgets(graph: ServiceDependencyGraph, options: RunOptions) -> None:
    """Refuses what could never be started."""
    for name in graph:
        for resource, amount in graph[name].resources.items():
            budget = options.budgets.get(resource)
            if budget is not None and amount > budget:
                raise ConfigurationError(
                    f"{name} needs {amount:g} of {resource}, and the budget of all together is {budget:g}",
                    source=graph[name].source,
                )


def gate_edges(stages: Sequence[StartupStage], stage_of: Mapping[str, int], skipped: frozenset[str]) -> list[Edge]:
    """Gates as nodes: each waits for its services and the gate before, and the services of the next stage wait for it."""
    edges: list[Edge] = []
    for index, stage in enumerate(stages):
        name, gate = gate_name(stage), stage.health_gate
        source = gate.source or stage.source
        edges.extend(Edge(dependent=name, dependency=service, source=source) for service in gate.required)
        edges.extend(
            Edge(dependent=name, dependency=service, optional=True, source=source)
            for service in gate.optional
            if service not in skipped
        )
        if index:
            edges.append(Edge(dependent=name, dependency=gate_name(stages[index - 1]), source=source))
    edges.extend(
        Edge(dependent=name, dependency=gate_name(stages[index - 1]), source=stages[index].source)
        for name, index in stage_of.items()
        if index and name not in skipped
    )
    return edges


def _optional(graph: ServiceDependencyGraph, stages: Sequence[StartupStage]) -> frozenset[str]:
    """What ``skip_optional`` leaves out: neither critical nor needed by a critical service or a gate."""
    wanted = {name for name in graph if graph[name].critical}
    wanted.update(name for stage in stages for name in stage.health_gate.required)
    after = {name: [edge.dependency for edge in graph.needs(name) if not edge.optional] for name in graph}
    return frozenset(set(graph) - wanted - paths.reachable(wanted, after))


def _urgent(graph: ServiceDependencyGraph, required: Sequence[Edge]) -> frozenset[str]:
    after: dict[str, list[str]] = {}
    for edge in required:
        after.setdefault(edge.dependent, []).append(edge.dependency)
    critical = {name for name in graph if graph[name].critical}
    return frozenset(critical | {name for name in paths.reachable(critical, after) if name in graph})


def _quorum(service: ServiceDefinition, stages: Sequence[StartupStage], own_stage: int | None, naming: Sequence[int]) -> int:
    """What its own stage's gate asks for, or else the first gate that names it, or else all of its instances."""
    for index in sorted(naming, key=lambda index: (index != own_stage, index)):
        if service.name in stages[index].health_gate.instances:
            return stages[index].health_gate.instances[service.name]
    return service.instances


def _retry(service: ServiceDefinition, stages: Sequence[StartupStage], stage: int | None) -> RetryPolicy:
    own = service.retry_policy or (stages[stage].retry_policy if stage is not None else None)
    return own or SINGLE_ATTEMPT


def edge_is_hard(edge: Edge, services: Mapping[str, ServiceDefinition]) -> bool:
    """Whether ``edge`` keeps its dependent from starting when its dependency has failed for good."""
    return not edge.optional and services[edge.dependency].critical
