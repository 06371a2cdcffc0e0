"""When a start that failed is tried again: by its own policy, or by that of its stage."""

from __future__ import annotations

import pytest

from fabric.startup.definition import RetryPolicy
from fabric.startup.events import CommandKind, Outcome
from fabric.startup.measure import profile_of
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import request, service, simulate, stage

DOUBLING = RetryPolicy(attempts=4, delay=1.0, factor=2.0, max_delay=3.0)


def command_times(simulation: Simulation) -> list[float]:
    return [at for at, action in simulation.actions if getattr(action, "kind", None) is CommandKind.START]


def test_pauses_grow_up_to_their_limit() -> None:
    """Three failures of a second each: the pauses are one, two and then three seconds, not four."""
    failing = Behaviour(seconds=1.0, error="not yet")
    simulation = simulate(db=[failing, failing, failing, Behaviour(seconds=1.0)])
    end = simulation.run(request([service("db", retry_policy=DOUBLING)]))
    assert end is not None
    assert end.outcome is Outcome.SUCCEEDED
    assert command_times(simulation) == pytest.approx([0.0, 2.0, 5.0, 9.0])
    assert profile_of(simulation.engine).service("db").retry == pytest.approx(9.0)


def test_the_policy_of_a_stage_is_for_those_without_their_own() -> None:
    """In one stage, one service is tried again as the stage says, and one not at all as it says itself."""
    fleet = [service("db"), service("proud", critical=False, retry_policy=RetryPolicy(attempts=1))]
    simulation = simulate(
        db=[Behaviour(seconds=1.0, error="not yet"), Behaviour(seconds=1.0)], proud=Behaviour(seconds=1.0, error="never")
    )
    end = simulation.run(request(fleet, [stage("core", "db", "proud", required=["db"], retry_policy=DOUBLING)]))
    assert end is not None
    assert end.outcome is Outcome.DEGRADED
    profile = profile_of(simulation.engine)
    assert (profile.service("db").attempts, profile.service("proud").attempts) == (2, 1)
    assert profile.service("db").ready == pytest.approx(3.0)


def test_a_pause_holds_no_slot() -> None:
    """While one service waits for its next attempt, another one uses the only slot."""
    simulation = simulate(db=[Behaviour(seconds=1.0, error="not yet"), Behaviour(seconds=1.0)], web=Behaviour(seconds=1.0))
    end = simulation.run(request([service("db", retry_policy=DOUBLING), service("web", critical=False)], slots=1))
    assert end is not None
    profile = profile_of(simulation.engine)
    assert profile.service("web").ready == pytest.approx(2.0)
    assert profile.makespan == pytest.approx(3.0)
