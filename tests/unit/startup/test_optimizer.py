"""Advice: what it proposes, what it leaves alone, and that it comes true."""

from __future__ import annotations

import random
import statistics

import pytest

from fabric.errors import ConfigurationError
from fabric.startup.contention import Contention, learn
from fabric.startup.default_fleet import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.measure import profile_of
from fabric.startup.optimizer import optimize_startup
from fabric.startup.profile import StartupProfile
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import request, service, simulate, stage

DEFAULT = ServiceDependencyGraph(SERVICE_DEPENDENCIES)


def default_run(seed: int, stages: object = DEFAULT_STARTUP_STAGES) -> StartupProfile:
    rng = random.Random(seed)
    usual = random.Random(0)
    seconds = {name: usual.uniform(0.5, 3.0) * rng.uniform(0.8, 1.25) for name in SERVICE_DEPENDENCIES}
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds[name]))
    simulation.run(request(tuple(SERVICE_DEPENDENCIES.values()), stages))  # type: ignore[arg-type]
    return profile_of(simulation.engine)


def test_advice_for_the_default_fleet_comes_true() -> None:
    """What is predicted for the default fleet is what fresh runs with the advised stages save, within a tenth."""
    advice = optimize_startup(DEFAULT, [default_run(seed) for seed in range(4)])
    fresh = range(100, 140)
    before = statistics.fmean(default_run(seed).makespan for seed in fresh)
    after = statistics.fmean(default_run(seed, advice.optimized_stages).makespan for seed in fresh)
    assert advice.estimate.share > 0.4
    assert before - after == pytest.approx(advice.estimate.gain, rel=0.1)
    assert advice.model_error < 0.01
    assert [proposal.kind for proposal in advice.proposals] == ["barrier"]
    assert "service-registry" in advice.proposals[0].services


def test_good_stages_are_left_alone() -> None:
    """Where no change saves anything, the advice is what is in use."""
    fleet = [service("db"), service("api", "db"), service("web", "api")]
    stages = [stage("core", "db", required=["db"]), stage("rest", "api", "web")]
    simulation = simulate()
    simulation.run(request(fleet, stages))
    advice = optimize_startup(ServiceDependencyGraph(fleet), [profile_of(simulation.engine)])
    assert advice.optimized_stages == tuple(stages)
    assert advice.proposals == ()
    assert advice.estimate.gain == 0.0


def test_faster_is_not_better_where_there_is_slack() -> None:
    """Ten seconds off a service with slack buy nothing, and the advice says so."""
    simulation = simulate(kafka=Behaviour(seconds=10), db=Behaviour(seconds=24))
    fleet = [service("kafka"), service("db"), service("web", "kafka", "db")]
    simulation.run(request(fleet))
    advice = optimize_startup(ServiceDependencyGraph(fleet), [profile_of(simulation.engine)])
    assert str(advice.speed_ups[0]) == "db takes 24.0 s, and up to 14.0 s of it can be saved"
    assert "10.0 s off kafka buys nothing: 14.0 s of slack" in [str(one) for one in advice.speed_ups]


def test_edges_that_cost_are_asked_about() -> None:
    """An edge on the critical path that nothing else implies is named with what it costs; it is not removed."""
    simulation = simulate(cache=Behaviour(seconds=9), api=Behaviour(seconds=5))
    fleet = [service("cache", critical=False), service("db"), service("api", "cache", "db")]
    simulation.run(request(fleet))
    advice = optimize_startup(ServiceDependencyGraph(fleet), [profile_of(simulation.engine)])
    assert [(edge.dependent, edge.dependency, edge.estimate.gain) for edge in advice.costly_edges] == [("api", "cache", 5.0)]


class TestS10:
    MACHINE = Contention(cores=2, overhead=0.03)

    def a_run(self, slots: int | None, seed: int = 0) -> StartupProfile:
        rng = random.Random(seed)
        fleet = [service(f"s{i}", *(["s0"] if i > 30 else []), timeout=1000.0) for i in range(40)]
        seconds = {one.name: rng.uniform(1.0, 3.0) for one in fleet}
        simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds[name]), speed=self.MACHINE.speed)
        end = simulation.run(request(fleet, slots=slots, durations=seconds))
        assert end is not None
        assert end.outcome.ok
        return profile_of(simulation.engine)

    def test_a_limit_beats_no_limit_and_is_recommended(self) -> None:
        """S10 (tilt#6190): 40 CPU-bound starts on 2 cores: from two runs the tool learns to limit them, and it pays."""
        fleet = ServiceDependencyGraph([service(f"s{i}", *(["s0"] if i > 30 else []), timeout=1000.0) for i in range(40)])
        runs = [self.a_run(8), self.a_run(None)]
        advice = optimize_startup(fleet, runs)
        assert advice.slots is not None
        assert advice.slots <= 4
        achieved = self.a_run(advice.slots).makespan
        assert achieved < 0.8 * runs[1].makespan
        assert advice.estimate.after == pytest.approx(achieved, rel=0.1)

    def test_contention_is_learned_from_runs_of_different_width(self) -> None:
        """S10: the machine's cores and its overhead are found from what the same services took at two widths."""
        learned = learn([self.a_run(8), self.a_run(None)])
        assert learned.cores == 2
        assert learned.overhead == pytest.approx(0.03, abs=0.011)

    def test_one_width_teaches_nothing_and_the_tool_says_so(self) -> None:
        """S10: with runs of one width only, the limit is left alone, and a run at another width is asked for."""
        fleet = ServiceDependencyGraph([service(f"s{i}", *(["s0"] if i > 30 else []), timeout=1000.0) for i in range(40)])
        advice = optimize_startup(fleet, [self.a_run(8)])
        assert advice.slots == 8
        assert any("slots=4" in note for note in advice.notes)


def test_advice_needs_a_run_that_went_well() -> None:
    """There is no advice from failures alone."""
    simulation = simulate(db=Behaviour(error="x"))
    simulation.run(request([service("db")]))
    with pytest.raises(ConfigurationError, match="at least one run"):
        optimize_startup(ServiceDependencyGraph([service("db")]), [profile_of(simulation.engine)])


def test_mixed_times_that_run_into_a_timeout_are_left_out() -> None:
    """Either of two services was slow in one run; both slow at once would be too long for their stage. The estimate is of runs
    that come up, and a note says how many were left out."""
    fleet = [service("a"), service("b", "a"), service("c"), service("web")]
    stages = [stage("core", "a", "b", "c", required=["b", "c"], timeout=30.0), stage("front", "web")]
    profiles = []
    for slow in ("a", "b"):
        simulation = simulate(**{name: Behaviour(seconds=25.0 if name == slow else 2.0) for name in "abc"})
        simulation.run(request(fleet, stages))
        profiles.append(profile_of(simulation.engine))
    advice = optimize_startup(ServiceDependencyGraph(fleet), profiles)
    assert 4.0 < advice.estimate.before < 31.0
    assert advice.estimate.gain >= 0.0
    assert any("samples are left out" in note for note in advice.notes)
