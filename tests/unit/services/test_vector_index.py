"""Exact nearest neighbours: the answers are those of the definition, and the limits hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.todo.vector_index import IndexFull, VectorIndex, WrongDimensions

# Whole numbers, so that only truly equal scores are equal and rounding can't decide an order.
_VECTORS = st.lists(st.lists(st.integers(-5, 5).map(float), min_size=4, max_size=4), min_size=1, max_size=12)


def _cosine(a: list[float], b: list[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


@given(vectors=_VECTORS, query=st.lists(st.integers(-5, 5).map(float), min_size=4, max_size=4), limit=st.integers(1, 12))
def test_it_finds_what_the_definition_finds(vectors: list[list[float]], query: list[float], limit: int) -> None:
    """For any vectors the scores found are the highest cosines, in descending order."""
    index = VectorIndex(100)
    for number, vector in enumerate(vectors):
        index.put(str(number), vector, {"number": number})
    found = index.search(query, limit=limit)
    expected = sorted((_cosine(vector, query) for vector in vectors), reverse=True)[:limit]
    assert [near.score for near in found] == pytest.approx(expected, abs=1e-9)
    assert all(near.metadata["number"] == int(near.id) for near in found)


def test_replacing_and_removing_leave_nothing_behind() -> None:
    """After a replacement only the new vector is found; after the last removal another number of dimensions may begin."""
    index = VectorIndex(2)
    index.put("a", [1, 0], {})
    index.put("a", [0, 1], {"new": True})
    assert [(near.score, near.metadata) for near in index.search([0, 2], limit=5)] == [(1.0, {"new": True})]
    assert index.search([1, 0], limit=5, min_score=0.5) == []
    assert index.remove("a")
    assert not index.remove("a")
    index.put("b", [1, 2, 3], {})
    assert (len(index), index.dimensions) == (1, 3)


def test_limits_and_wrong_vectors_are_refused() -> None:
    """A full index, another number of dimensions and numbers that are none raise, and change nothing."""
    index = VectorIndex(1)
    index.put("a", [1.0, 0.0], {})
    with pytest.raises(IndexFull):
        index.put("b", [1.0, 0.0], {})
    with pytest.raises(WrongDimensions):
        index.put("a", [1.0], {})
    with pytest.raises(ValueError, match="finite"):
        index.put("a", [math.nan, 0.0], {})
    with pytest.raises(WrongDimensions):
        index.search([1.0], limit=1)
    assert [near.id for near in index.search([1.0, 0.0], limit=5)] == ["a"]
