"""The better of two drawn at random."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fabric.routing.balancing import PowerOfTwo
from fabric.routing.latency import TAU
from fabric.routing.registry import Endpoint
from tests.unit.routing.instances import endpoints

CALLS = 200_000


def shares(candidates: list[Endpoint], *, calls: int = CALLS, now: float = 0.0) -> dict[str, float]:
    chooser = PowerOfTwo(random.Random(7), lambda: now)
    found = Counter(chooser.choose(candidates).id for _ in range(calls))
    return {endpoint.id: found[endpoint.id] / calls for endpoint in candidates}


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_equal_ones_get_equal_shares(count: int) -> None:
    """Among instances that do equally well nobody is preferred: each gets its share to within one in a hundred of all calls."""
    candidates = endpoints([1] * count)
    for endpoint in candidates:
        endpoint.latency.observe(0.01, 0.0)
    assert all(abs(share - 1 / count) < 0.01 for share in shares(candidates).values())


@pytest.mark.parametrize("count", [2, 3])
def test_equal_shares_are_within_a_hundredth_of_themselves(count: int) -> None:
    """Over so many calls that chance itself deviates by less than a fifth of that: each share within 1 % of what is due."""
    candidates = endpoints([1] * count)
    for endpoint in candidates:
        endpoint.latency.observe(0.01, 0.0)
    assert all(abs(share * count - 1) < 0.01 for share in shares(candidates, calls=250_000 * (count - 1)).values())


def test_the_worst_of_many_gets_nothing_and_the_best_most() -> None:
    """Of several the slowest is never the better of two; of two the quicker one gets every call."""
    candidates = endpoints([1] * 4)
    for place, endpoint in enumerate(candidates, 1):
        endpoint.latency.observe(0.01 * place, 0.0)
    got = shares(candidates, calls=10_000)
    assert got["i-003"] == 0.0
    assert got["i-000"] > got["i-001"] > got["i-002"] > 0
    assert shares(candidates[:2], calls=100)["i-000"] == 1.0


def test_load_counts_like_latency_and_weight_against_it() -> None:
    """An instance with twice the calls under way, ours or others', is worth as much as one that takes twice the time; one of
    twice the weight is worth twice as much."""
    for fill in ("pending", "others"):
        one, two = endpoints([1, 1])
        for endpoint in (one, two):
            endpoint.latency.observe(0.01, 0.0)
        setattr(one, fill, 3)
        assert shares([one, two], calls=100)["i-001"] == 1.0
    light, heavy = endpoints([1, 4])
    for endpoint in (light, heavy):
        endpoint.latency.observe(0.01, 0.0)
    heavy.pending = 2
    assert shares([light, heavy], calls=100)["i-001"] == 1.0


def test_one_that_has_answered_nothing_yet_is_tried_and_not_flooded() -> None:
    """A newcomer gets the next call at once, and no more until it has answered."""
    old, new = endpoints([1, 1])
    old.latency.observe(0.01, 0.0)
    assert shares([old, new], calls=10)["i-001"] == 1.0
    new.pending = 1
    assert shares([old, new], calls=10)["i-000"] == 1.0


def test_one_that_was_slow_is_tried_again() -> None:
    """Nobody starves: without any call the memory of slowness fades, until the instance is chosen again."""
    good, slow = endpoints([1, 1])
    slow.latency.observe(1.0, 0.0)
    chooser = PowerOfTwo(random.Random(1), lambda: now)
    now = 0.0
    while True:
        good.latency.observe(0.01, now)
        if chooser.choose([good, slow]) is slow:
            break
        now += 0.1
    assert now < 5 * TAU
