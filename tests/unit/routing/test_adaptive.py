"""A limit that finds itself, on a simulated callee that slows down beyond its capacity."""

from __future__ import annotations

import random

import pytest

from fabric.routing.adaptive import SAMPLES, AdaptiveLimit


def drive(limit: AdaptiveLimit, capacity: int, *, steps: int, demand: int = 10_000, seconds: float = 0.01, seed: int = 1) -> None:
    """Let a callee answer that takes ``seconds`` up to its capacity and proportionally longer beyond it."""
    chance = random.Random(seed)
    for _ in range(steps):
        running = min(limit.limit, demand)
        took = seconds * max(1.0, running / capacity) * (0.9 + 0.2 * chance.random())
        limit.observe(took, running)


@pytest.mark.parametrize("capacity", [5, 20, 60])
def test_it_settles_near_the_capacity(capacity: int) -> None:
    """Whatever the callee can do at once, the limit comes to lie at it, some way above, and far below the most allowed."""
    limit = AdaptiveLimit(400)
    drive(limit, capacity, steps=250 * SAMPLES)
    assert capacity * 0.8 <= limit.limit <= capacity * 4


def test_it_grows_while_nothing_slows_down() -> None:
    """Where more at once costs nothing it goes up to what is allowed, and no further."""
    limit = AdaptiveLimit(100)
    assert limit.limit == 25
    drive(limit, 10_000, steps=100 * SAMPLES)
    assert limit.limit == 100


def test_it_shrinks_when_the_callee_does_and_grows_again() -> None:
    """Half the capacity is gone for a while: the limit follows down, and back up."""
    limit = AdaptiveLimit(400)
    drive(limit, 100, steps=250 * SAMPLES)
    before = limit.limit
    drive(limit, 10, steps=40 * SAMPLES)
    assert limit.limit < before / 2
    drive(limit, 100, steps=400 * SAMPLES)
    assert limit.limit >= before * 0.7


def test_without_demand_it_stays() -> None:
    """A limit that nobody comes near says nothing, so it is not raised."""
    limit = AdaptiveLimit(100)
    drive(limit, 10_000, steps=100 * SAMPLES, demand=3)
    assert limit.limit == 25


def test_it_is_never_below_one() -> None:
    """Even a callee that gets ever slower is asked, one at a time."""
    limit = AdaptiveLimit(10)
    for step in range(100 * SAMPLES):
        limit.observe(0.001 * 1.01**step, limit.limit)
    assert limit.limit >= 1
    assert AdaptiveLimit(1).limit == 1
