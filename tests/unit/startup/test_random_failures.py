"""Fleets in which things fail at random."""

from __future__ import annotations

import random

import pytest

from fabric.startup.definition import RetryPolicy, ServiceDefinition
from fabric.startup.events import CommandKind
from fabric.startup.explain import explain
from fabric.startup.measure import profile_of
from fabric.startup.plan import edge_is_hard
from fabric.startup.record import DOWN, UP
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import random_fleet, request, stage

SERVICES = 30


def broken(rng: random.Random) -> Behaviour:
    """One of the ways in which an attempt goes wrong."""
    seconds = rng.uniform(0.1, 3.0)
    return rng.choice(
        [
            Behaviour(seconds=seconds, error="refused"),
            Behaviour(seconds=seconds, exit_code=rng.choice([1, 137])),
            Behaviour(silent=True),
            Behaviour(seconds=seconds, ready=False, says="no disk"),
        ]
    )


def a_run(seed: int, rate: float) -> Simulation:
    rng = random.Random(seed)
    policy = RetryPolicy(attempts=rng.choice([1, 2, 3]), delay=0.5)
    fleet = [
        ServiceDefinition(
            name=one.name,
            critical=one.critical,
            dependencies=one.dependencies,
            timeout=10.0,
            retry_policy=policy,
            instances=rng.choice([1, 1, 2]),
        )
        for one in random_fleet(rng, SERVICES)
    ]
    names = [one.name for one in fleet]
    stages = [
        stage("one", *names[:10], required=rng.sample(names[:10], rng.randint(0, 2)), timeout=30.0),
        stage(
            "two",
            *names[10:20],
            required=rng.sample(names[10:20], rng.randint(0, 2)),
            timeout=30.0,
            skip_on_timeout=rng.random() < 0.5,
        ),
    ]
    fates: dict[tuple[str, int], Behaviour] = {}

    def behave(service: str, instance: str, attempt: int) -> Behaviour:
        key = (instance, attempt)
        if key not in fates:
            fates[key] = broken(rng) if rng.random() < rate else Behaviour(seconds=rng.uniform(0.1, 3.0))
        return fates[key]

    simulation = Simulation(behave)
    end = simulation.run(request(fleet, stages, slots=rng.choice([None, 1, 4])), until=1e6)
    assert end is not None, "the run hangs"
    return simulation


def _excused(simulation: Simulation, name: str) -> bool:
    """Whether something that a service is bound to need, a gate before it included, is not up, or may still come."""
    engine = simulation.engine
    plan = engine.scheduler.plan
    for edge in plan.needs[name]:
        state = engine.services[edge.dependency].state
        if not edge.optional and state not in UP and (edge_is_hard(edge, plan.services) or state not in DOWN):
            return True
    return any(
        engine.services[other].state not in UP
        for gate in engine.scheduler.gates[: plan.stage_of.get(name, 0)]
        if not gate.state.passable
        for other in gate.stage.health_gate.required
    )


@pytest.mark.parametrize("rate", [0.2, 0.3])
def test_s16_no_hang_no_cascade_and_the_root_cause_first(rate: float) -> None:
    """S16: over 200 seeds nothing hangs, nothing is stopped or left unstarted whose needs are up, and causes come first."""
    for seed in range(200):
        simulation = a_run(seed, rate)
        engine = simulation.engine
        assert not simulation.commands(CommandKind.STOP), seed
        for name, record in engine.services.items():
            if record.begun_at is None:
                assert record.state in UP or _excused(simulation, name), (seed, name, str(explain(engine, name)))
            assert str(explain(engine, name))
        profile = profile_of(engine)
        assert sum(part.seconds for part in profile.critical_path) == pytest.approx(profile.makespan), seed
        if profile.report is None:
            continue
        roots = [service.root for service in profile.report.unhealthy]
        assert roots == sorted(roots, reverse=True), seed
        for root in profile.report.roots:
            assert root.cause is not None, (seed, root)
            assert root.advice, (seed, root)
        explained = set().union(*(set(root.waiting) | {root.name} for root in profile.report.roots))
        assert {service.name for service in profile.report.unhealthy} <= explained, seed


def test_recovery_matches_the_number_of_attempts() -> None:
    """With attempts r + 1 and failures at p = 0.3 a service comes up with 1 - p^(r+1): 97.3 % for two retries."""
    rng = random.Random(16)
    fleet = [ServiceDefinition(name=f"s{i}", retry_policy=RetryPolicy(attempts=3, delay=0.1)) for i in range(2000)]
    simulation = Simulation(lambda name, instance, attempt: Behaviour(error="transient") if rng.random() < 0.3 else Behaviour())
    simulation.run(request(fleet))
    up = sum(record.state in UP for record in simulation.engine.services.values())
    assert up / len(fleet) == pytest.approx(1 - 0.3**3, abs=0.012)
