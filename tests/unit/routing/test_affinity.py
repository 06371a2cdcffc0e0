"""The same key to the same instance."""

from __future__ import annotations

from collections import Counter

from fabric.routing.affinity import by_key
from tests.unit.routing.instances import endpoints

KEYS = [f"user-{n}" for n in range(20_000)]


def test_a_key_has_one_home_whatever_the_order() -> None:
    """Every hub, with its candidates in whatever order, sends a key to the same instance; the values are pinned."""
    ring = endpoints([1] * 5)
    assert [by_key(ring, key).id for key in KEYS[:200]] == [by_key(ring[::-1], key).id for key in KEYS[:200]]
    assert [by_key(ring, f"user-{n}").id for n in range(6)] == ["i-000", "i-002", "i-000", "i-003", "i-002", "i-002"]


def test_keys_are_spread_evenly_and_by_weight() -> None:
    """Equal instances get equal shares to within five in a hundred; one of twice the weight gets twice as many."""
    shares = Counter(by_key(endpoints([1] * 8), key).id for key in KEYS)
    assert max(shares.values()) / min(shares.values()) < 1.1
    weighted = Counter(by_key(endpoints([1, 2, 1]), key).id for key in KEYS)
    assert abs(weighted["i-001"] / len(KEYS) - 0.5) < 0.02


def test_only_the_keys_of_one_that_leaves_move() -> None:
    """Taking an instance away leaves every other key where it was, and spreads its own over all the rest."""
    ring = endpoints([1] * 6)
    before = {key: by_key(ring, key).id for key in KEYS}
    gone = ring.pop(2).id
    after = {key: by_key(ring, key).id for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {before[key] for key in moved} == {gone}
    assert len({after[key] for key in moved}) == 5
