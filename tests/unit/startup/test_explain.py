"""Why something is not up, in fleets small and large: the root is told, each reason once, and no more than one reads."""

from __future__ import annotations

import math

import pytest

from fabric.errors import ConfigurationError
from fabric.startup.definition import HealthCheck, RetryPolicy, ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.explain import explain
from fabric.startup.measure import profile_of
from fabric.startup.simulation import Behaviour, Simulation
from fabric.startup.stages import HealthGate, RunOptions, StartupStage
from tests.unit.startup.fleets import request, service, simulate, stage


def failing(fleet: list[ServiceDefinition], *broken: str, stages: tuple[StartupStage, ...] = ()) -> Simulation:
    simulation = Simulation(lambda name, instance, attempt: Behaviour(error="disk full" if name in broken else None))
    assert simulation.run(request(fleet, stages)) is not None
    return simulation


def test_each_link_leads_to_the_next_and_is_told_once() -> None:
    """From the service asked for to the one that failed; a reason that two share is told at the first of them."""
    fleet = [service("db"), service("api", "db"), service("web", "api", "db")]
    lines = str(explain(failing(fleet, "db").engine, "web")).splitlines()
    assert [line.split(" is ")[0] for line in lines] == ["web", "  api", "    db"]
    assert "disk full" in lines[-1]
    assert lines[0].endswith("see also db")


def test_the_end_of_a_long_chain_is_told() -> None:
    """Three thousand services, each needing the one before: the first one's error is within reach, and how many are between."""
    fleet = [service("s0"), *(service(f"s{index}", f"s{index - 1}") for index in range(1, 3000))]
    lines = str(explain(failing(fleet, "s0").engine, "s2999")).splitlines()
    assert len(lines) < 30
    assert "disk full" in lines[-1]
    assert "2,978 more stand between this and what follows" in lines[-2]


def test_many_ways_to_one_root_are_not_told_one_by_one() -> None:
    """Twelve layers of twelve, all needing all before: there are 10**12 ways to the root, and the answer has some lines."""
    layers = [[f"l{layer}-{index}" for index in range(12)] for layer in range(12)]
    fleet = [service(name, *(layers[depth - 1] if depth else [])) for depth, layer in enumerate(layers) for name in layer]
    lines = str(explain(failing(fleet, "l0-3").engine, "l11-0")).splitlines()
    assert len(lines) <= 200
    assert any("disk full" in line for line in lines)


def test_a_service_with_thousands_of_obstacles_names_some() -> None:
    """Of three thousand failed dependencies a dozen are told, and how many there are."""
    needs = [f"s{index}" for index in range(3000)]
    simulation = failing([*map(service, needs), service("all", *needs)], *needs)
    lines = str(explain(simulation.engine, "all")).splitlines()
    assert len(lines) == 13
    assert "2,988 more keep it there" in lines[0]
    report = str(profile_of(simulation.engine).report)
    assert len(report.splitlines()) < 50
    assert "and 2,988 more that failed" in report


def test_the_report_of_a_large_fleet_names_the_root_first() -> None:
    """One service, late in the alphabet, takes five thousand along, through a gate too: it is the only root, and comes first."""
    members = [f"s{index}" for index in range(2500)]
    fleet = [service("zeta"), *(service(name, "zeta") for name in members), *(service(f"late-{name}") for name in members)]
    stages = (stage("one", "zeta", *members, required=members), stage("two", *(f"late-{name}" for name in members)))
    simulation = failing(fleet, "zeta", stages=stages)
    report = profile_of(simulation.engine).report
    assert report is not None
    assert [root.name for root in report.roots] == ["zeta"]
    assert len(report.roots[0].waiting) == 5000
    assert simulation.engine.reason.startswith("critical services are not up: zeta, ")
    assert len(str(report)) < 1500


def test_a_gate_says_what_it_lacks() -> None:
    """A service behind a gate is explained by the gate, and the gate by how many votes of what it has."""
    simulation = simulate(db=Behaviour(ready=False, says="replaying its log"))
    simulation.tell(request([service("db"), service("web")], [stage("core", "db", required=["db"]), stage("front", "web")]))
    simulation.go_to(5.0)
    lines = str(explain(simulation.engine, "web")).splitlines()
    assert lines[1].strip() == "gate:core is checking: waits for db (0 of 1)"
    assert "replaying its log" in lines[2]


def test_oom_is_a_word() -> None:
    """A reason with *boom* or *room* in it is no want of memory; *OOM killer* is."""
    advice = []
    for error in ("boom, no room", "stopped by the OOM killer"):
        simulation = simulate(db=Behaviour(error=error))
        simulation.run(request([service("db")]))
        report = profile_of(simulation.engine).report
        assert report is not None
        advice.append("memory" in report.recommendations[0])
    assert advice == [False, True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_are_no_seconds_are_refused(value: float) -> None:
    """NaN is neither too small nor too large, and yet no time to wait; nothing is waited for without an end."""
    with pytest.raises(ConfigurationError, match="timeouts must be positive seconds"):
        ServiceDefinition(name="a", timeout=value)
    with pytest.raises(ConfigurationError, match="timeouts must be positive seconds"):
        ServiceDefinition(name="a", stop_timeout=value)
    with pytest.raises(ConfigurationError, match="retry delays"):
        RetryPolicy(delay=value)
    with pytest.raises(ConfigurationError, match="retry factor"):
        RetryPolicy(factor=value)
    with pytest.raises(ConfigurationError, match="interval and timeout"):
        HealthCheck(interval=value)
    with pytest.raises(ConfigurationError, match="cpu must be"):
        ServiceDefinition(name="a", resources={"cpu": value})
    with pytest.raises(ConfigurationError, match="stable_for"):
        HealthGate(stable_for=value)
    with pytest.raises(ConfigurationError, match="the timeout must be"):
        StartupStage(name="a", services=(), timeout=value)
    with pytest.raises(ConfigurationError, match="budget of cpu"):
        RunOptions(budgets={"cpu": value})


def test_past_durations_that_are_none_are_left_out() -> None:
    """A history with NaN in it gives the order that it would give without."""
    fleet = [service("a"), service("b"), service("c")]
    engine = Engine()
    engine.handle(request(fleet, slots=1, durations={"a": math.nan, "b": 9.0, "c": -4.0}), 0.0)
    assert engine.plan is not None
    assert sorted(engine.plan.rank, key=lambda name: engine.plan.rank[name] if engine.plan else 0) == ["b", "a", "c"]


def test_a_service_can_not_be_named_as_a_gate() -> None:
    """``gate:one`` stands for the gate of stage one among the nodes; a service of that name is refused, not confused."""
    stages = [stage("one", "gate:one", required=["gate:one"]), stage("two", "web")]
    with pytest.raises(ConfigurationError, match="rename one of them"):
        Engine().handle(request([service("gate:one"), service("web")], stages), 0.0)
