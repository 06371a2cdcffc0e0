"""The bound: what no order of starting could have beaten, and nothing that a run need not have waited for."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabric.startup.definition import Condition, Dependency, ServiceDefinition
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.measure import profile_of
from fabric.startup.profile import StartupProfile
from fabric.startup.simulation import Behaviour, Simulation
from fabric.startup.stages import StartupStage
from tests.unit.startup.fleets import THRICE, request, service, simulate, stage

CONDITIONS = [Condition.HEALTHY, Condition.HEALTHY, Condition.STARTED, Condition.COMPLETED]


def wild_fleet(rng: random.Random, count: int) -> list[ServiceDefinition]:
    """Every kind of edge, jobs, several instances, resources, and services that need not come up."""
    fleet = []
    jobs = {f"s{index}" for index in range(count) if rng.random() < 0.15}
    for index in range(count):
        before = [f"s{one}" for one in range(index)]
        needs = rng.sample(before, min(index, rng.randint(0, 3)))
        wishes = rng.sample([name for name in before if name not in needs], rng.randint(0, 1) if index > len(needs) else 0)

        def edge(name: str) -> Dependency:
            condition = rng.choice([Condition.HEALTHY, Condition.HEALTHY, Condition.STARTED])
            return Dependency(on=name, condition=Condition.COMPLETED if name in jobs else condition)

        name = f"s{index}"
        fleet.append(
            service(
                name,
                critical=rng.random() < 0.5,
                timeout=rng.choice([3.0, 10.0]),
                retry_policy=THRICE,
                instances=1 if name in jobs else rng.choice([1, 1, 2]),
                resources={"cpu": rng.choice([0.5, 1.0])} if rng.random() < 0.5 else {},
                optional_dependencies=tuple(map(edge, wishes)),
            )
        )
        fleet[-1] = ServiceDefinition(
            **{field: getattr(fleet[-1], field) for field in fleet[-1].__dataclass_fields__ if field != "dependencies"},
            dependencies=tuple(map(edge, needs)),
        )
    return fleet


def wild_stages(rng: random.Random, count: int) -> list[StartupStage]:
    third = count // 3
    names = [[f"s{index}" for index in range(low, low + third)] for low in (0, third, 2 * third)]
    chosen = [rng.sample(group, 2) for group in names]
    return [
        stage(
            f"stage-{index}",
            *group,
            required=[required] if rng.random() < 0.8 else [],
            optional=[optional] if rng.random() < 0.5 else [],
            stable_for=rng.choice([0.0, 0.0, 2.0]),
            skip_on_timeout=rng.random() < 0.5,
            timeout=rng.choice([4.0, 30.0]),
        )
        for index, (group, (required, optional)) in enumerate(zip(names, chosen, strict=True))
    ]


def run_wild(seed: int, slots: int | None, faults: float, order: int) -> tuple[StartupProfile, Simulation]:
    """A run of the fleet of ``seed``, in which each attempt does the same whatever the order of starting."""
    rng = random.Random(seed)
    count = 12
    fleet = wild_fleet(rng, count)
    stages = wild_stages(rng, count) if rng.random() < 0.7 else []
    budgets = {"cpu": 2.0} if rng.random() < 0.3 else {}
    jobs = ServiceDependencyGraph(fleet).jobs()

    def behave(name: str, instance: str, attempt: int) -> Behaviour:
        chance = random.Random(f"{seed}/{instance}/{attempt}")
        seconds = chance.uniform(0.1, 4.0)
        started = seconds * chance.random()
        if name in jobs:
            return Behaviour(seconds=seconds, exit_code=1 if chance.random() < faults else 0)
        return Behaviour(seconds=seconds, started_after=started, error="x" if chance.random() < faults else None)

    simulation = Simulation(behave, start=1_700_000_000.0)
    ranks = random.Random(order)
    durations = {one.name: ranks.uniform(0.1, 9.0) for one in fleet} if order else {}
    ask = request(fleet, stages, slots=slots, budgets=budgets, durations=durations)
    assert simulation.run(ask) is not None
    return profile_of(simulation.engine), simulation


def came_up(profile: StartupProfile) -> object:
    """What became of each service: only runs that brought about the same can be compared."""
    up = {(one.name, one.attempts, one.missing) for one in profile.services if one.ready is not None}
    return profile.outcome, frozenset(up)


@given(st.integers(0, 100_000), st.sampled_from([None, 1, 2, 4]), st.sampled_from([0.0, 0.2, 0.5]))
@example(seed=881, slots=None, faults=0.2)
@settings(max_examples=40, deadline=None)
def test_no_order_beats_the_bound(seed: int, slots: int | None, faults: float) -> None:
    """Optional, started and completed edges, jobs, replicas, budgets, gates that skip, failures: no run is shorter than its
    own bound, nor than that of a run in another order in which the same services came up."""
    runs = [run_wild(seed, slots, faults, order)[0] for order in range(3)]
    for one in runs:
        best = min(other.makespan for other in runs if came_up(other) == came_up(one))
        assert one.bound <= best + 1e-5
        assert one.bound_without_gates <= one.bound + 1e-6
        assert one.parallel_efficiency <= 1.0 + 1e-6


@given(st.integers(0, 100_000), st.floats(0.5, 9.0))
@settings(max_examples=25, deadline=None)
def test_a_run_that_takes_over_counts_only_its_own_time(seed: int, after: float) -> None:
    """What was up or starting before the run was asked for, also beyond its limit of slots, is no bound for it."""
    first = random.Random(seed)
    fleet = [service(f"s{index}", *([f"s{first.randrange(index)}"] if index else []), timeout=60.0) for index in range(8)]
    seconds = {one.name: first.uniform(0.5, 4.0) for one in fleet}
    stages = [stage("one", "s0", "s1", required=["s0"], stable_for=2.0), stage("two", "s7")]
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds[name]))
    simulation.tell(request(fleet, stages))
    simulation.go_to(after)
    assert simulation.run(request(fleet, stages, run="run-2", slots=1)) is not None
    profile = profile_of(simulation.engine)
    assert profile.run == "run-2"
    assert profile.bound <= profile.makespan + 1e-9


@pytest.mark.parametrize(
    ("fleet", "stages", "options", "bound"),
    [
        pytest.param([service("a"), service("b", "a"), service("c", "b")], [], {}, 6.0, id="a chain"),
        pytest.param([service("a"), service("b"), service("c")], [], {"slots": 2}, 3.0, id="work over slots"),
        pytest.param([service("a"), service("b"), service("c"), service("d", "c")], [], {"slots": 3}, 4.0, id="path over slots"),
        pytest.param(
            [service(name, resources={"gpu": 2.0}) for name in "abc"], [], {"budgets": {"gpu": 4.0}}, 3.0, id="work over a budget"
        ),
        pytest.param(
            [service("a"), *(service(name, "a") for name in "bcd"), service("e", "b", "c", "d")],
            [],
            {"slots": 3},
            6.0,
            id="one before and one after",
        ),
        pytest.param(
            [service("a"), service("late", "a", timeout=3.0), service("b", optional_dependencies=("late",))],
            [],
            {},
            5.0,
            id="an optional dependency is waited for up to its time",
        ),
        pytest.param(
            [service("a"), service("b")], [stage("x", "a", required=["a"], stable_for=5.0), stage("y", "b")], {}, 9.0, id="a gate"
        ),
        pytest.param(
            [service("slow"), service("b")],
            [stage("x", "slow", required=["slow"], skip_on_timeout=True, timeout=1.5), stage("y", "b")],
            {},
            3.5,
            id="a gate that skips",
        ),
    ],
)
def test_bound_is_what_has_to_be_waited_for(fleet: object, stages: object, options: dict[str, object], bound: float) -> None:
    """Each kind of wait counts for what it costs at least, no more and no less; every start takes two seconds here."""
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=2.0))
    assert simulation.run(request(fleet, stages, **options)) is not None  # type: ignore[arg-type]
    assert profile_of(simulation.engine).bound == pytest.approx(bound)


def test_what_recovers_after_the_run_does_not_count() -> None:
    """A service that comes up long after the run has ended adds neither to its work nor to its bound."""
    simulation = simulate(db=Behaviour(error="x"), web=Behaviour(seconds=2))
    simulation.run(request([service("db", critical=False), service("web", "db")]))
    simulation.later(50.0, simulation.vote("db", "db#1"))
    simulation.go_to(100.0)
    profile = profile_of(simulation.engine)
    assert profile.service("db").up
    assert profile.makespan == pytest.approx(3.0)
    assert profile.bound == pytest.approx(2.0)
    assert profile.work == pytest.approx(2.0)
