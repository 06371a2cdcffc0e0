"""Policies: checked when made, plain on the wire and in files, and refused as a whole when anything is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.routing.balancing import STRATEGIES
from fabric.routing.breaker_policy import BreakerPolicy
from fabric.routing.ejection_policy import EjectionPolicy
from fabric.routing.policies import Policies, RoutePolicy
from fabric.routing.retry import RetryPolicy
from tests.unit.wire.messages import unhurried

route_policies = st.builds(
    RoutePolicy,
    balancing=st.sampled_from(sorted(STRATEGIES)),
    prefer=st.sampled_from([(), ("zone",), ("host", "zone")]),
    retry=st.builds(RetryPolicy, attempts=st.integers(1, 9)),
    breaker=st.none() | st.builds(BreakerPolicy, failure_rate=st.floats(0.1, 1.0), slow_call=st.none() | st.floats(0.1, 9.0)),
    ejection=st.none() | st.builds(EjectionPolicy, panic=st.floats(0.0, 1.0)),
    hedge_after=st.none() | st.floats(0.01, 10),
    timeout=st.none() | st.floats(0.01, 10),
)


sets = st.builds(
    Policies, default=route_policies, services=st.dictionaries(st.text(min_size=1), route_policies), revision=st.integers(0, 99)
)


@unhurried
@given(sets)
def test_they_survive_the_wire(policies: Policies) -> None:
    """To plain data, through msgpack and back: the same policies."""
    assert Policies.from_plain(msgpack.unpackb(msgpack.packb(policies.to_plain()))) == policies


def test_what_is_left_out_is_as_in_the_default() -> None:
    """A service says only what differs; within a map too."""
    policies = Policies.from_plain(
        {
            "default": {"balancing": "p2c", "breaker": {"window": 30}},
            "services": {
                "email": {"breaker": {"failure_rate": 0.9}},
                "bulk": {"breaker": None},
                "capability:nlp": {"timeout": 2},
            },
        }
    )
    assert policies.of("email").balancing == "p2c"
    assert policies.of("email").breaker == BreakerPolicy(window=30.0, failure_rate=0.9)
    assert policies.of("bulk").breaker is None
    assert policies.of("capability:nlp").timeout == 2.0
    assert policies.of("anybody").breaker == BreakerPolicy(window=30.0)
    assert Policies.from_plain({}) == Policies()


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (7, "map"),
        ([], "map"),
        ({"defaults": {}}, "default, services and revision"),
        ({"revision": "new"}, "revision"),
        ({"services": []}, "services"),
        ({"default": {"balancing": "best"}}, "round-robin"),
        ({"default": {"brk": 1}}, "brk"),
        ({"services": {"email": {"retry": {"atempts": 2}}}}, "email.*retry.atempts"),
        ({"services": {"email": {"retry": {"attempts": "many"}}}}, "email.*retry.attempts"),
        ({"services": {"email": {"retry": {"attempts": 0}}}}, "email.*not a retry policy"),
        ({"services": {"email": 3}}, "email.*map"),
        ({"default": {"breaker": {"window": -1}}}, "not a breaker policy"),
        ({"default": {"breaker": 5}}, "breaker"),
        ({"default": {"ejection": {"panic": 2}}}, "not an ejection policy"),
        ({"default": {"ejection": {"breaker": {"probes": 0}}}}, "not a breaker policy"),
        ({"default": {"prefer": ["rack"]}}, "host and zone"),
        ({"default": {"prefer": "zone"}}, "prefer"),
        ({"default": {"hedge_after": 0}}, "hedge_after"),
        ({"default": {"timeout": -1}}, "timeout"),
    ],
)
def test_a_bad_one_is_refused_and_says_where(data: Any, names: str) -> None:
    """Whatever is unknown or can't work is named with its place, and nothing of the set is taken."""
    with pytest.raises(ConfigurationError, match=names):
        Policies.from_plain(data)


def test_a_variation_keeps_the_rest() -> None:
    """retry= and balancing= of a hub change only these, and only the default."""
    policies = Policies(services={"a": RoutePolicy(balancing="random")})
    varied = policies.varied(balancing="p2c", retry=None)
    assert varied == replace(policies, default=RoutePolicy(balancing="p2c"))
    assert policies.varied() is policies
