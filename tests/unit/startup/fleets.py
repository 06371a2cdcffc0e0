"""Small fleets and what they do, for the tests of start-up."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from fabric.startup.definition import RetryPolicy, ServiceDefinition
from fabric.startup.events import Progress, RunRequested
from fabric.startup.simulation import Behaviour, Simulation
from fabric.startup.stages import HealthGate, RunOptions, StartupStage

THRICE = RetryPolicy(attempts=3, delay=1.0, factor=1.0)


def service(name: str, *needs: str, **more: Any) -> ServiceDefinition:
    """A service that is critical unless told otherwise."""
    return ServiceDefinition(name=name, dependencies=needs, **{"critical": True, **more})


def stage(name: str, *services: str, required: Sequence[str] = (), **more: Any) -> StartupStage:
    gate = {key: more.pop(key) for key in ("optional", "instances", "stable_for", "successes") if key in more}
    return StartupStage(name=name, services=services, health_gate=HealthGate(required=tuple(required), **gate), **more)


def request(
    services: Sequence[ServiceDefinition],
    stages: Sequence[StartupStage] = (),
    *,
    run: str = "run-1",
    durations: Mapping[str, float] | None = None,
    **options: Any,
) -> RunRequested:
    return RunRequested(
        run=run, services=tuple(services), stages=tuple(stages), options=RunOptions(**options), durations=durations or {}
    )


def simulate(**behaviours: Behaviour | Sequence[Behaviour]) -> Simulation:
    """A simulation in which services behave as named (``_`` for ``-``), a sequence giving one behaviour per attempt of
    each instance and repeating the last; all others take a second."""

    def behave(name: str, instance: str, attempt: int) -> Behaviour:
        found = behaviours.get(instance.replace("-", "_").replace("#", "_"), behaviours.get(name.replace("-", "_")))
        if found is None:
            return Behaviour()
        if isinstance(found, Behaviour):
            return found
        return found[min(attempt, len(found)) - 1]

    return Simulation(behave)


def started(simulation: Simulation) -> list[str]:
    """The services in the order in which they got a slot."""
    return [action.name for _, action in simulation.actions if isinstance(action, Progress) and action.state == "starting"]


def states(simulation: Simulation) -> dict[str, str]:
    return {name: str(record.state) for name, record in simulation.engine.services.items()}


def random_fleet(rng: random.Random, count: int, *, edges: float = 2.0, critical: float = 0.5) -> list[ServiceDefinition]:
    """Services ``s0`` to ``sN`` of which each needs some of those before it."""
    fleet = []
    for index in range(count):
        needs = rng.sample(range(index), min(index, rng.randint(0, round(2 * edges))))
        fleet.append(service(f"s{index}", *(f"s{need}" for need in sorted(needs)), critical=rng.random() < critical))
    return fleet
