"""The fleet file of the reference application is the default fleet, and what it starts is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import services.todo
from fabric import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
from fabric.coordination.fleet import Fleet, load_fleet
from fabric.coordination.host import load_service
from fabric.startup.definition import Dependency, ServiceDefinition

FILE = Path(services.todo.__file__).parent / "fleet.yaml"


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return load_fleet(FILE, environment={})


def _names(edges: tuple[str | Dependency, ...]) -> tuple[str, ...]:
    return tuple(edge.on if isinstance(edge, Dependency) else edge for edge in edges)


def _plain(definition: ServiceDefinition) -> ServiceDefinition:
    """Without the places in the file, which the default fleet does not have."""
    return replace(
        definition,
        source=None,
        dependencies=_names(definition.dependencies),
        optional_dependencies=_names(definition.optional_dependencies),
        health_checks=tuple(replace(check, source=None) for check in definition.health_checks),
    )


def test_it_is_the_default_fleet(fleet: Fleet) -> None:
    """Every service and stage as SERVICE_DEPENDENCIES and DEFAULT_STARTUP_STAGES have them, in their order."""
    assert {name: _plain(fleet.graph[name]) for name in fleet.runs} == {
        name: _plain(definition) for name, definition in SERVICE_DEPENDENCIES.items()
    }
    stages = [replace(stage, source=None, health_gate=replace(stage.health_gate, source=None)) for stage in fleet.stages]
    assert stages == list(DEFAULT_STARTUP_STAGES)


@pytest.mark.parametrize("name", sorted(SERVICE_DEPENDENCIES))
def test_what_it_starts_is_that_service(fleet: Fleet, name: str) -> None:
    """The class has the name, the dependencies and at least the capabilities that the file gives it."""
    target = fleet.runs[name].target
    assert target is not None
    service = load_service(target)
    definition = fleet.graph[name]
    assert service.name == name
    assert set(service.dependencies) == set(_names(definition.dependencies))
    assert set(service.optional_dependencies) == set(_names(definition.optional_dependencies))
    assert set(definition.capabilities) <= set(service.capabilities)
