"""Leaving out instances that do worse than their peers, never so many that too few are left."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.routing.balancing import STRATEGIES
from fabric.routing.breaker_policy import BreakerPolicy
from fabric.routing.ejection import Ejections
from fabric.routing.ejection_policy import EjectionPolicy
from fabric.routing.policies import RoutePolicy
from fabric.routing.registry import ServiceRegistry
from tests.unit.routing.instances import instance
from tests.unit.routing.simulated import Behaviour, hangs, run, takes

EVERY = sorted(STRATEGIES)


def policy(name: str, **changes: Any) -> RoutePolicy:
    return RoutePolicy(balancing=name, breaker=None, **changes)


@pytest.mark.parametrize("name", EVERY)
def test_one_that_fails_at_once_attracts_nothing(name: str) -> None:
    """M13 (brpc#3340, grpc-java#12237): failing fast looks like being idle; it is left out after a few calls all the same."""
    told, _ = run({"i-0": takes(0.001, ok=False), "i-1": takes(0.02), "i-2": takes(0.02)}, policy(name), seconds=10)
    assert told.failed["i-0"] < 30
    assert told.share("i-0", 1, 10) < 0.1 / 3


@pytest.mark.parametrize("name", EVERY)
def test_one_that_is_half_a_second_slower_loses_its_share(name: str) -> None:
    """M13 (brpc#3340): with 500 ms more than its peers an instance falls below a tenth of its fair share within 5 s."""
    told, _ = run({"i-0": takes(0.52), "i-1": takes(0.02), "i-2": takes(0.02)}, policy(name), seconds=15)
    assert told.share("i-0", 5, 15) < 0.1 / 3


@pytest.mark.parametrize("name", ["least-connections", "p2c"])
def test_one_that_hangs_costs_no_more_than_its_share(name: str) -> None:
    """M14 (grpc-java#12237): calls to a hanging instance end at their timeout; it is not picked twice in a row, and the rest
    does (n-1)/n of the work at least."""
    told, _ = run({"i-0": hangs(1.0), "i-1": takes(0.02), "i-2": takes(0.02)}, policy(name), seconds=10, workers=6)
    assert ("i-0", "i-0") not in set(zip(told.choices[6:], told.choices[7:], strict=False))
    healthy, _ = run({f"i-{n}": takes(0.02) for n in range(3)}, policy(name), seconds=10, workers=6)
    assert told.succeeded.total() >= healthy.succeeded.total() * 2 / 3


@pytest.mark.parametrize("name", EVERY)
def test_when_everybody_looks_bad_everybody_is_called(name: str) -> None:
    """M15 (Envoy): with all instances failing, panic goes on calling all of them; when they recover, so does everything."""
    sick: Behaviour = lambda now: (0.02, now >= 5.0)  # noqa: E731
    told, traffic = run({f"i-{n}": sick for n in range(4)}, policy(name), seconds=30)
    assert traffic.ejections.panics > 0
    assert all(told.began[second].total() > 0 for second in range(30))
    assert all(told.share(f"i-{n}", 20, 30) > 0.1 for n in range(4))
    assert traffic.ejections.ejected() == ()


@pytest.mark.parametrize("name", EVERY)
def test_one_that_recovers_gets_its_share_again(name: str) -> None:
    """An ejected instance is tried with single calls, ever more rarely, and when one succeeds it is back."""
    told, _ = run({"i-0": lambda now: (0.02, now >= 6.0), "i-1": takes(0.02), "i-2": takes(0.02)}, policy(name), seconds=40)
    assert told.share("i-0", 2, 6) < 0.01
    assert told.share("i-0", 25, 40) > 0.25


@given(
    sick=st.sets(st.integers(0, 5), max_size=6),
    name=st.sampled_from(EVERY),
    seed=st.integers(0, 100),
    panic=st.sampled_from([0.0, 0.34, 0.5, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_never_an_ejected_one_outside_panic(sick: set[int], name: str, seed: int, panic: float) -> None:
    """Whoever is sick, whatever the strategy: an instance that is left out gets a call only as a probe or in panic."""
    registry = ServiceRegistry()
    for n in range(6):
        registry.apply(instance(f"i-{n}"), 0.0)
    ejections = Ejections(registry, lambda _: EjectionPolicy(panic=panic), chance=random.Random(seed))
    chooser = STRATEGIES[name](random.Random(seed))
    now = 0.0
    for _ in range(300):
        now += 0.01
        candidates = registry.candidates("a")
        out = set(ejections.ejected())
        panics = ejections.panics
        standing = ejections.standing(candidates, panic, now) if ejections.out else candidates
        endpoint = chooser.choose(standing)
        if endpoint.id in out:
            probe = len(standing) == 1 and endpoint.breaker is not None and endpoint.breaker.permits(now)
            assert probe or ejections.panics == panics + 1
            if not probe:
                assert 6 - len(out) < panic * 6 or len(out) == 6
        permit = ejections.acquire(endpoint, now)
        ejections.settle(endpoint, permit, now, ok=int(endpoint.id[-1]) not in sick, seconds=0.01)


def test_one_that_is_gone_is_forgotten() -> None:
    """M28 (moleculer#705): an ejected instance that dies leaves nothing behind, and its successor starts clean."""
    registry = ServiceRegistry()
    registry.apply(instance("i-0"), 0.0)
    ejections = Ejections(registry, lambda _: EjectionPolicy(), chance=random.Random(0))
    endpoint = registry.candidates("a")[0]
    for _ in range(5):
        ejections.settle(endpoint, ejections.acquire(endpoint, 1.0), 1.0, ok=False, seconds=0.1)
    assert ejections.ejected() == ("i-0",)
    registry.apply(instance("i-0", incarnation=2), 2.0)
    assert ejections.ejected() == ()
    assert registry.candidates("a")[0].breaker is None


def test_by_hand() -> None:
    """An operator leaves an instance out and takes it back; who is not known can't be."""
    registry = ServiceRegistry()
    for n in range(3):
        registry.apply(instance(f"i-{n}"), 0.0)
    ejections = Ejections(registry, lambda _: EjectionPolicy(), chance=random.Random(0))
    assert ejections.isolate("i-1")
    assert not ejections.isolate("i-9")
    assert [e.id for e in ejections.standing(registry.candidates("a"), 0.5, 1e6)] == ["i-0", "i-2"]
    assert ejections.restore("i-1")
    assert not ejections.restore("i-1")
    assert not ejections.out


def test_a_policy_of_none_leaves_nobody_out() -> None:
    """Where a service has no ejection policy its instances are called whatever they do; adopting one starts counting."""
    registry = ServiceRegistry()
    registry.apply(instance("i-0"), 0.0)
    endpoint = registry.candidates("a")[0]
    current: list[EjectionPolicy | None] = [None]
    ejections = Ejections(registry, lambda _: current[0], chance=random.Random(0))

    def fail() -> None:
        for _ in range(10):
            ejections.settle(endpoint, ejections.acquire(endpoint, 1.0), 1.0, ok=False, seconds=0.1)

    fail()
    assert not ejections.out
    current[0] = EjectionPolicy(breaker=BreakerPolicy(consecutive_failures=2))
    ejections.adopt()
    fail()
    assert ejections.out
    current[0] = None
    ejections.adopt()
    assert not ejections.out


@pytest.mark.parametrize("values", [{"slower_than": 1.0}, {"slower_than": -2.0}, {"slow_from": 0.0}, {"panic": 1.5}])
def test_policies_that_are_none(values: dict[str, Any]) -> None:
    """What can't work is refused when it is made."""
    with pytest.raises(ConfigurationError, match="not an ejection policy"):
        EjectionPolicy(**values)
