"""What is refused or warned of before anything starts."""

from __future__ import annotations

import pytest

from fabric.errors import ConfigurationError, DependencyCycle, UnknownName
from fabric.startup.default_fleet import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
from fabric.startup.definition import ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.lint import Severity, lint
from tests.unit.startup.fleets import request, service, stage


def rules(*args: object) -> list[str]:
    return [finding.rule for finding in lint(*args)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("services", "stages", "error", "match"),
    [
        ([service("a", "ghost")], [], UnknownName, "ghost"),
        ([service("a")], [stage("one", "ghost")], UnknownName, "stage one"),
        ([service("a")], [stage("one", "a", required=["ghost"])], UnknownName, "gate of stage one"),
        ([service("a", health_checks=())], [stage("one", "a", required=["a"])], ConfigurationError, "no health check"),
        ([service("a", instances=2)], [stage("one", "a", required=["a"], instances={"a": 3})], ConfigurationError, "wants 3"),
        ([service("a"), service("b")], [stage("one", "a"), stage("two", "a", "b")], ConfigurationError, "in the stages"),
        ([service("a"), service("b")], [stage("one", "a", required=["b"]), stage("two", "b")], DependencyCycle, "gate:one"),
    ],
)
def test_s8_refused_before_anything_is_started(
    services: list[ServiceDefinition], stages: list[object], error: type[Exception], match: str
) -> None:
    """S8 (opentelemetry-demo#1583, flagsmith#5197): unknown names and gates that can never open start nothing."""
    engine = Engine()
    with pytest.raises(error, match=match):
        engine.handle(request(services, stages), 0.0)  # type: ignore[arg-type]
    assert engine.plan is None
    assert any(finding.severity is Severity.ERROR for finding in lint(services, stages))  # type: ignore[arg-type]


def test_s7_risky_edge_is_named() -> None:
    """S7 (opentelemetry-demo#3845): the lint names the edge from a critical service to one that is not."""
    findings = lint([service("flags", critical=False), service("checkout", "flags")])
    assert [(finding.rule, finding.subject) for finding in findings] == [("risky-edge", "checkout")]


def test_default_fleet_has_its_two_known_risks() -> None:
    """The default fleet starts; its lint knows the gateway's risky edge and that no gate waits for the gateway."""
    assert rules(SERVICE_DEPENDENCIES.values(), DEFAULT_STARTUP_STAGES) == ["risky-edge", "ungated-critical"]


def test_cycles_are_all_listed_with_one_cure() -> None:
    """Every cycle is a finding of its own, with the smallest cure, which prefers edges to what is not critical."""
    fleet = [service("a", "b"), service("b", "a", "c", critical=False), service("c", "b")]
    findings = lint(fleet)
    assert [finding.rule for finding in findings] == ["cycle", "cycle"]
    assert all("a -> b, c -> b optional" in finding.message for finding in findings)


def test_stage_order_and_gates_are_questioned() -> None:
    """A service that waits for a later stage, and a gate that requires what is not critical, are warned of."""
    fleet = [service("early", "late"), service("late"), service("toy", critical=False)]
    stages = [stage("one", "early", "toy", required=["toy"]), stage("two", "late", required=["late"])]
    assert rules(fleet, stages) == ["gate-on-optional", "stage-order", "ungated-critical"]


def test_lint_survives_anything() -> None:
    """A fleet may be as broken as it likes: lint lists what is wrong and raises nothing."""
    fleet = [service("a", "a", "ghost"), service("a"), service("b", "b")]
    assert set(rules(fleet, [stage("one", "nobody")])) == {"duplicate", "unknown-service", "cycle"}


def test_optional_edge_in_a_cycle_is_warned_of() -> None:
    """An optional edge that nobody waits for is named."""
    fleet = [service("a", "b"), ServiceDefinition(name="b", optional_dependencies=("a",), critical=True)]
    assert rules(fleet) == ["optional-cycle"]
