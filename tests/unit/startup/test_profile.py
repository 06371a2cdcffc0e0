"""What a profile says of a run: times apart, a critical path without gaps, efficiency against the bound."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.errors import ConfigurationError, StartupFailed
from fabric.startup.codec import dump_event, load_event
from fabric.startup.default_fleet import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
from fabric.startup.engine import Engine
from fabric.startup.history import ProfileHistory
from fabric.startup.measure import profile_of
from fabric.startup.profile import StartupProfile
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import THRICE, random_fleet, request, service, simulate, stage


def default_profile(seed: int = 0, *, slower: float = 1.0, run: str = "run-1", start: float = 0.0) -> StartupProfile:
    rng = random.Random(seed)
    seconds = {name: rng.uniform(0.5, 3.0) for name in SERVICE_DEPENDENCIES}
    seconds["event-store"] *= slower
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds[name]), start=start)
    simulation.run(request(tuple(SERVICE_DEPENDENCIES.values()), DEFAULT_STARTUP_STAGES, run=run, slots=4))
    return profile_of(simulation.engine)


def test_s17_blame_tells_waiting_from_work() -> None:
    """S17 (systemd PR#8834): waiting, gate, slot, retry and own time of each service are apart, and sum to its ready time."""
    fleet = [service("db"), service("api", "db", retry_policy=THRICE), service("web"), service("job")]
    simulation = simulate(
        db=Behaviour(seconds=4), api=[Behaviour(seconds=2, error="x"), Behaviour(seconds=3)], web=Behaviour(seconds=2)
    )
    stages = [stage("core", "db", "api", required=["db"]), stage("front", "web", "job")]
    simulation.run(request(fleet, stages, slots=1))
    profile = profile_of(simulation.engine)
    api = profile.service("api")
    assert (api.waiting, api.gate, api.own, api.attempts) == (4.0, 0.0, 3.0, 2)
    assert api.retry >= 3.0
    for one in profile.services:
        assert one.waiting + one.gate + one.slot + one.retry + one.own == pytest.approx(one.ready)
    web = profile.service("web")
    assert (web.gate, web.slot, web.own, web.retry) == (4.0, 3.0, 2.0, 0.0)
    assert profile.critical_path[0].name == "db"
    assert sum(part.seconds for part in profile.critical_path) == profile.makespan


@given(st.integers(0, 10_000), st.sampled_from([None, 1, 2, 5]), st.floats(0.0, 0.5))
@settings(max_examples=60, deadline=None)
def test_s17_critical_path_sums_to_the_makespan(seed: int, slots: int | None, rate: float) -> None:
    """S17: whatever happens, the segments of the critical path meet, and their sum is the makespan."""
    rng = random.Random(seed)
    fleet = [
        service(
            one.name,
            *(str(need) for need in one.dependencies),
            critical=one.critical,
            retry_policy=THRICE,
            timeout=10.0,
            optional_dependencies=("s0",) if rng.random() < 0.2 and one.name != "s0" and "s0" not in one.dependencies else (),
        )
        for one in random_fleet(rng, 25)
    ]
    stages = [
        stage("one", *(f"s{i}" for i in range(8)), required=["s3"], optional=["s5"], stable_for=rng.choice([0.0, 2.0])),
        stage("two", *(f"s{i}" for i in range(8, 16)), required=["s9"], skip_on_timeout=True, timeout=8.0),
        stage("three", *(f"s{i}" for i in range(16, 20))),
    ]
    simulation = Simulation(
        lambda name, instance, attempt: Behaviour(seconds=rng.uniform(0.1, 4.0), error="x" if rng.random() < rate else None)
    )
    assert simulation.run(request(fleet, stages, slots=slots)) is not None
    profile = profile_of(simulation.engine)
    parts = profile.critical_path
    assert sum(part.seconds for part in parts) == pytest.approx(profile.makespan)
    for one, next_one in itertools.pairwise(parts):
        assert one.end == pytest.approx(next_one.start)
    assert not [part for part in parts if part.kind == "wait"], parts
    assert profile.bound <= profile.makespan + 1e-9
    assert profile.bound_without_gates <= profile.bound + 1e-9


def test_efficiency_is_measured_against_the_bound() -> None:
    """A chain can't be parallel: its parallel efficiency is low and its schedule efficiency is whole."""
    simulation = simulate()
    simulation.run(request([service("a"), service("b", "a"), service("c", "b")], slots=3))
    profile = profile_of(simulation.engine)
    assert profile.parallel_efficiency == pytest.approx(1 / 3)
    assert profile.schedule_efficiency == 1.0
    assert [part.name for part in profile.bottlenecks] == ["a", "b", "c"]


def test_slack_says_what_speeding_up_would_buy() -> None:
    """A service off the critical path has slack, and one on it has none."""
    simulation = simulate(kafka=Behaviour(seconds=2), db=Behaviour(seconds=10))
    simulation.run(request([service("kafka"), service("db"), service("web", "kafka", "db")]))
    profile = profile_of(simulation.engine)
    assert (profile.service("kafka").slack, profile.service("db").slack) == (8.0, 0.0)


def test_profile_survives_json() -> None:
    """A profile read back from JSON is equal; what is no profile is refused with its place."""
    profile = default_profile()
    assert StartupProfile.from_json(profile.to_json()) == profile
    with pytest.raises(ConfigurationError, match="not a StartupProfile"):
        StartupProfile.from_json("{}")


def test_failed_profile_raises_when_asked() -> None:
    """``raise_for_outcome`` passes a good profile on, and raises with the report's text for a bad one."""
    assert default_profile().raise_for_outcome().ok
    simulation = simulate(db=Behaviour(error="disk full"))
    simulation.run(request([service("db"), service("api", "db")]))
    with pytest.raises(StartupFailed, match="disk full") as caught:
        profile_of(simulation.engine).raise_for_outcome()
    assert caught.value.profile.report.roots[0].name == "db"


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (Behaviour(exit_code=1, says="OSError: [Errno 98] address already in use"), "port"),
        (Behaviour(exit_code=1, says="psycopg.OperationalError: Connection refused"), "it names db as what it needs"),
        (Behaviour(exit_code=137), "memory"),
        (Behaviour(exit_code=127), "not found"),
        (Behaviour(exit_code=0), "job"),
        (Behaviour(exit_code=1, says="ModuleNotFoundError: No module named 'x'"), "imported"),
        (Behaviour(silent=True), "no instance ever answered"),
        (Behaviour(ready=False), "hangs"),
    ],
)
def test_recommendation_fits_the_cause(behaviour: Behaviour, words: str) -> None:
    """Each kind of failure gets advice of its own: exit code, port, refused dependency, time, silence."""
    simulation = simulate(api=behaviour)
    simulation.run(request([service("db"), service("api", "db")]))
    report = profile_of(simulation.engine, history={"api": 2.0}).report
    assert report is not None
    assert words in report.recommendations[0]


def test_timeout_too_short_against_history_is_told() -> None:
    """A service that took nearly its timeout before is told to get more of it."""
    simulation = simulate(api=Behaviour(seconds=60))
    simulation.run(request([service("api", timeout=20.0)]))
    report = profile_of(simulation.engine, history={"api": 19.0}).report
    assert report is not None
    assert "raise its timeout to 38s" in report.recommendations[0]


def test_history_keeps_profiles_and_names_regressions(tmp_path: Path) -> None:
    """Past profiles give the usual times; a service that got slower is named, with what was usual."""
    with ProfileHistory(tmp_path / "history.db", keep=6) as history:
        for number in range(8):
            history.add("todo", default_profile(run=f"run-{number}", start=100.0 * number))
        slow = default_profile(slower=3.0, run="slow", start=5000.0)
        history.add("todo", slow)
        assert [profile.run for profile in history.recent("todo", 3)] == ["slow", "run-7", "run-6"]
        assert history.find("todo", "run-0") is None
        assert history.find("todo", "slow") == slow
        found = history.regressions("todo", slow)
        assert [one.service for one in found] == ["", "event-store"]
        assert found[1].seconds == pytest.approx(3 * found[1].usual)
        assert history.durations("todo")["prisma-service"] == pytest.approx(slow.durations["prisma-service"])
        assert history.regressions("todo", history.recent("todo", 2)[1]) == ()
    (tmp_path / "other").write_bytes(b"x" * 4096)
    with pytest.raises(ConfigurationError, match="not a profile history"):
        ProfileHistory(tmp_path / "other")


def test_events_survive_a_journal() -> None:
    """Every event of a run, written as plain data and read back, drives another engine to the same state."""
    simulation = Simulation(
        lambda name, instance, attempt: (
            Behaviour(exit_code=1, says="x") if attempt == 1 and name == "event-store" else Behaviour()
        )
    )
    simulation.run(request(tuple(SERVICE_DEPENDENCIES.values()), DEFAULT_STARTUP_STAGES))
    again = Engine()
    for at, event in simulation.events:
        copy = load_event(json.loads(json.dumps(dump_event(event), allow_nan=False)))
        assert copy == event
        again.handle(copy, at)
    assert again.services == simulation.engine.services
    with pytest.raises(ConfigurationError, match="not a start-up event"):
        load_event({"type": "Nonsense"})
