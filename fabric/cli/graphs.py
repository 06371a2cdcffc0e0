"""Draws a fleet: who needs whom, in which stages. Pure text from a ``Fleet``; nothing is asked of a running one."""

from __future__ import annotations

from typing import Any

from fabric.coordination.fleet import Fleet
from fabric.startup.definition import Condition, Edge
from fabric.startup.stages import StartupStage


def as_text(fleet: Fleet) -> str:
    """Stage by stage, with what each service waits for."""
    graph = fleet.graph
    path = graph.critical_path().path
    width = max(len(name) for name in graph.services)
    lines = [
        f"{fleet.name}: {_count(len(graph), 'service')}, {_count(len(graph.edges), 'dependency', 'dependencies')}, "
        f"{_count(len(fleet.stages), 'stage')}",
        f"longest chain: {' -> '.join(path)}",
    ]
    for name, services, stage in _stages(fleet):
        lines += ["", name or "in no stage"]
        for service in services:
            mark = "*" if graph[service].critical else " "
            lines.append(f"  {mark} {service:<{width}}  {_needs(graph.needs(service), fleet, service)}".rstrip())
        if stage is not None:
            lines.append(f"  gate: {_gate(stage)}")
    lines += ["", "* critical"]
    for edge in graph.ignored:
        lines.append(f"not waited for, it would close a cycle: {edge.dependent} -> {edge.dependency} ({edge.source})")
    return "\n".join(lines)


def as_mermaid(fleet: Fleet) -> str:
    """A flowchart, one box a stage; thick arrows lead from a gate to the stage that it opens."""
    number = {name: f"s{index}" for index, name in enumerate(fleet.graph.services)}
    lines = ["flowchart LR"]
    stages = _stages(fleet)
    for index, (name, services, _) in enumerate(stages):
        lines.append(f'  subgraph g{index}["{name or "no stage"}"]')
        for service in services:
            left, right = ('["', '"]') if fleet.graph[service].critical else ('("', '")')
            lines.append(f"    {number[service]}{left}{_label(fleet, service)}{right}")
        lines.append("  end")
    for edge in fleet.graph.edges:
        arrow = "-.->" if edge.optional else "-->"
        label = "" if edge.condition is Condition.HEALTHY else f"|{edge.condition}|"
        lines.append(f"  {number[edge.dependency]} {arrow}{label} {number[edge.dependent]}")
    lines += [f"  g{index} ==> g{index + 1}" for index in range(len(fleet.stages) - 1)]
    return "\n".join(lines)


def as_dot(fleet: Fleet) -> str:
    """Graphviz, one cluster a stage; critical services are boxes, optional edges dashed."""
    lines = [f'digraph "{fleet.name}" {{', "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for index, (name, services, _) in enumerate(_stages(fleet)):
        lines += [f"  subgraph cluster_{index} {{", f'    label="{name or "no stage"}";']
        for service in services:
            style = ', style="filled,bold"' if fleet.graph[service].critical else ""
            lines.append(f'    "{service}" [label="{_label(fleet, service)}"{style}];')
        lines.append("  }")
    for edge in fleet.graph.edges:
        facts = ["style=dashed"] if edge.optional else []
        if edge.condition is not Condition.HEALTHY:
            facts.append(f'label="{edge.condition}"')
        attributes = f" [{', '.join(facts)}]" if facts else ""
        lines.append(f'  "{edge.dependency}" -> "{edge.dependent}"{attributes};')
    return "\n".join([*lines, "}"])


def as_data(fleet: Fleet) -> dict[str, Any]:
    """Plain data for programs. Times in seconds."""
    graph = fleet.graph
    return {
        "fleet": fleet.name,
        "namespace": fleet.namespace,
        "services": [
            {
                "name": service.name,
                "stage": fleet.stage_of(service.name),
                "critical": service.critical,
                "instances": service.instances,
                "timeout": service.timeout,
                "capabilities": list(service.capabilities),
                "source": service.source,
            }
            for service in graph.services.values()
        ],
        "edges": [
            {
                "dependent": edge.dependent,
                "dependency": edge.dependency,
                "condition": str(edge.condition),
                "optional": edge.optional,
                "waited_for": edge not in graph.ignored,
                "source": edge.source,
            }
            for edge in graph.edges
        ],
        "stages": [
            {
                "name": stage.name,
                "services": list(stage.services),
                "required": list(stage.health_gate.required),
                "optional": list(stage.health_gate.optional),
                "instances": dict(stage.health_gate.instances),
                "timeout": stage.timeout,
                "skip_on_timeout": stage.skip_on_timeout,
                "source": stage.source,
            }
            for stage in fleet.stages
        ],
        "order": list(graph.order()),
        "parallel_groups": [list(group) for group in graph.parallel_groups()],
        "critical_path": list(graph.critical_path().path),
    }


def _stages(fleet: Fleet) -> list[tuple[str, tuple[str, ...], StartupStage | None]]:
    """The stages in order, and at the end, without a name, the services that are in none."""
    found: list[tuple[str, tuple[str, ...], StartupStage | None]] = [(s.name, s.services, s) for s in fleet.stages]
    rest = tuple(name for name in fleet.graph.services if not fleet.stage_of(name))
    return [*found, ("", rest, None)] if rest else found


def _needs(edges: tuple[Edge, ...], fleet: Fleet, service: str) -> str:
    instances = fleet.graph[service].instances
    parts = [f"{instances} instances"] if instances > 1 else []
    for word, optional in (("needs", False), ("uses", True)):
        names = [
            edge.dependency + ("" if edge.condition is Condition.HEALTHY else f" ({edge.condition})")
            for edge in edges
            if edge.optional is optional
        ]
        if names:
            parts.append(f"{word} {', '.join(names)}")
    return "; ".join(parts)


def _gate(stage: StartupStage) -> str:
    gate = stage.health_gate
    required = [f"{name} ({gate.instances[name]} of its instances)" if name in gate.instances else name for name in gate.required]
    parts = [f"needs {', '.join(required)}"] if required else ["needs nothing"]
    if gate.optional:
        parts.append(f"reports {', '.join(gate.optional)}")
    parts.append(f"{'skipped' if stage.skip_on_timeout else 'fails'} after {stage.timeout:g} s")
    return "; ".join(parts)


def _label(fleet: Fleet, service: str) -> str:
    instances = fleet.graph[service].instances
    return f"{service} x{instances}" if instances > 1 else service


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
