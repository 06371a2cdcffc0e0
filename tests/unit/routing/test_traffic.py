"""Where the calls of one hub go: routes, and policies that are replaced while it runs."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.health import Health
from fabric.routing.balancing import STRATEGIES
from fabric.routing.breaker import OPEN
from fabric.routing.breaker_policy import BreakerPolicy
from fabric.routing.policies import Policies, RoutePolicy
from fabric.routing.registry import ServiceRegistry
from fabric.routing.retry import RetryPolicy
from fabric.routing.route import Route
from fabric.routing.traffic import Traffic
from tests.unit.routing.instances import instance
from tests.unit.wire.messages import unhurried


def traffic(*instances: Any, place: tuple[str, str] = ("", ""), **policy: Any) -> tuple[ServiceRegistry, Traffic]:
    registry = ServiceRegistry()
    for each in instances:
        registry.apply(each, 0.0)
    return registry, Traffic(registry, Policies(default=RoutePolicy(**policy)), place=place, chance=random.Random(0))


def chosen(route: Route, count: int = 60, key: str | None = None) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(count):
        endpoint = route.choose(frozenset(), key, 1.0)
        assert endpoint is not None
        found[endpoint.id] += 1
    return found


def test_one_target_has_one_route() -> None:
    """A route is made once, so that its turn, budget and breaker are shared by all callers."""
    _, t = traffic()
    assert t.to("a") is t.to("a")
    assert t.to("capability:a") is not t.to("a")
    assert t.to("a@^1") is not t.to("a")
    assert (t.to("a@^1").label, t.to("capability:a").label) == ("a@^1", "capability:a")


def test_versions_are_chosen_by_range() -> None:
    """name@range calls only instances of those versions; among them balancing and health count as ever."""
    instances = [instance(f"i-{v}", version=v) for v in ("1.4.0", "2.0.0", "2.3.1", "3.0.0-rc.1")]
    registry, t = traffic(*instances)
    assert set(chosen(t.to("a@^2"))) == {"i-2.0.0", "i-2.3.1"}
    assert set(chosen(t.to("a@>=1 <3"))) == {"i-1.4.0", "i-2.0.0", "i-2.3.1"}
    assert set(chosen(t.to("a"))) == {each.id for each in instances}
    registry.apply(instance("i-2.0.0", version="2.0.0", sequence=1, health=Health.bad("sick")), 1.0)
    assert set(chosen(t.to("a@^2"))) == {"i-2.3.1"}
    assert t.to("a@^4").choose(frozenset(), None, 1.0) is None
    assert "1.4.0, 2.0.0" in t.to("a@^4").describe_others()
    with pytest.raises(ConfigurationError, match="write it as"):
        t.to("a@newest")


def test_a_capability_is_offered_by_services_of_any_name() -> None:
    """Routing by capability takes whoever offers it, in the versions asked for."""
    _, t = traffic(
        instance("x", service="x", capabilities=("nlp",), version="1.0.0"),
        instance("y", service="y", capabilities=("nlp", "ocr"), version="2.0.0"),
    )
    assert set(chosen(t.to("capability:nlp"))) == {"x", "y"}
    assert set(chosen(t.to("capability:nlp@^2"))) == {"y"}
    assert t.to("capability:none").choose(frozenset(), None, 1.0) is None


def test_near_ones_are_preferred_as_long_as_there_are_any() -> None:
    """prefer: those of the same host, else of the same zone, else all; what is nearest may change at any time."""
    registry, t = traffic(
        instance("here", host="h1", zone="z1"),
        instance("near", host="h2", zone="z1"),
        instance("far", host="h3", zone="z2"),
        place=("h1", "z1"),
        prefer=("host", "zone"),
    )
    route = t.to("a")
    assert set(chosen(route)) == {"here"}
    registry.lose("here", "test")
    assert set(chosen(route)) == {"near"}
    registry.lose("near", "test")
    assert set(chosen(route)) == {"far"}
    registry.apply(instance("here", host="h1", zone="z1", sequence=5), 2.0)
    assert set(chosen(route)) == {"here"}


def test_a_key_stays_with_its_instance_and_moves_only_when_it_must() -> None:
    """key: the same instance each time; when it is left out another takes over, and it comes back with it."""
    _, t = traffic(*(instance(f"i-{n}") for n in range(5)))
    route = t.to("a")
    homes = {key: set(chosen(route, 5, key)) for key in ("u1", "u2", "u3", "u4")}
    assert all(len(home) == 1 for home in homes.values())
    (home,) = homes["u1"]
    t.ejections.isolate(home)
    moved = chosen(route, 5, "u1")
    assert len(moved) == 1
    assert home not in moved
    t.ejections.restore(home)
    assert set(chosen(route, 5, "u1")) == {home}


def test_those_that_were_tried_are_left_out_as_long_as_there_are_others() -> None:
    """A second attempt goes elsewhere; where there is nobody else it goes to the same again."""
    _, t = traffic(instance("i-0"), instance("i-1"))
    route = t.to("a")
    for _ in range(5):
        found = route.choose({"i-0"}, None, 1.0)
        assert found is not None
        assert found.id == "i-1"
    assert route.choose({"i-0", "i-1"}, None, 1.0) is not None


def test_new_policies_count_at_once_and_keep_what_was_learnt() -> None:
    """Adopting policies changes balancing, budget and breaker of routes in use; an open breaker stays open."""
    _, t = traffic(instance("i-0"), instance("i-1"))
    route = t.to("a")
    breaker = route.breaker
    assert breaker is not None
    for _ in range(20):
        breaker.settle(breaker.acquire(1.0), 1.0, ok=False, seconds=0.1)
    assert t.open_circuits == {"a": "open"}
    budget = route.budget
    changed = RoutePolicy(balancing="random", breaker=BreakerPolicy(open_for=1.0))
    assert t.adopt(Policies(services={"a": changed}, revision=2))
    assert route.policy is changed
    assert route.breaker is breaker
    assert breaker.state is OPEN
    assert route.budget is budget
    assert t.adopt(Policies(default=RoutePolicy(breaker=None, retry=RetryPolicy(attempts=9)), revision=3))
    assert route.breaker is None
    assert route.budget is not budget
    assert t.open_circuits == {}


def test_older_policies_are_not_taken() -> None:
    """Of two sets the one with the higher revision is in force, in whatever order they arrive."""
    _, t = traffic()
    newer = Policies(revision=5)
    assert t.adopt(newer)
    assert not t.adopt(Policies(revision=4))
    assert t.policies is newer
    assert t.adopt(Policies(revision=5))


def test_services_are_isolated_by_hand() -> None:
    """isolate opens the breaker of a service or capability until restore."""
    _, t = traffic()
    t.isolate("a")
    t.isolate("capability:nlp")
    assert t.open_circuits == {"a": "open", "capability:nlp": "open"}
    t.restore("a")
    t.restore("capability:nlp")
    assert t.open_circuits == {}


def test_names_that_nobody_offers_do_not_pile_up() -> None:
    """M28 (moleculer#705): calling ten thousand made-up names leaves a bounded number of routes behind, and those in use."""
    _, t = traffic(instance("i-0"))
    used = t.to("a")
    for n in range(10_000):
        t.to(f"made-up-{n}")
    assert len(t._routes) <= 4096
    assert t.to("a") is used


@unhurried
@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    count=st.integers(1, 8),
    out=st.sets(st.integers(0, 7)),
    key=st.none() | st.text(max_size=5),
)
def test_whatever_is_combined_somebody_standing_is_chosen(name: str, count: int, out: set[int], key: str | None) -> None:
    """Any strategy, with or without a key, any instances left out: the choice stands, unless too few would."""
    _, t = traffic(*(instance(f"i-{n}") for n in range(count)), balancing=name)
    gone = {f"i-{n}" for n in out if n < count}
    for id in gone:
        t.ejections.isolate(id)
    found = t.to("a").choose(frozenset(), key, 1.0)
    assert found is not None
    if count - len(gone) >= 0.5 * count and len(gone) < count:
        assert found.id not in gone
