"""Exact search for the most similar vectors, in memory."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """``score``: cosine, -1 to 1."""

    id: str
    score: float
    metadata: Mapping[str, Any]


class IndexFull(Exception):
    """``limit`` vectors are in it."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the index holds {limit} vectors and takes no more")
        self.limit = limit


class WrongDimensions(Exception):
    """The first vector sets the number of dimensions; this one has another."""

    def __init__(self, given: int, expected: int) -> None:
        super().__init__(f"a vector of {given} dimensions, where the others have {expected}")
        self.given, self.expected = given, expected


class VectorIndex:
    """Vectors by id, searched by cosine.

    Kept by dimension, each with the vectors that are not zero there, because embeddings of short texts are mostly zeros:
    a search reads the columns that its query has and no others. Dense vectors work too, at full cost.

    Args:
        capacity: vectors that it takes.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self._capacity = capacity
        self._columns: dict[int, dict[str, float]] = defaultdict(dict)
        self._rows: dict[str, tuple[tuple[int, ...], Mapping[str, Any]]] = {}
        self.dimensions: int | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, id: str, vector: Sequence[float], metadata: Mapping[str, Any]) -> None:
        """Add or replace. The vector is scaled to length 1; a zero vector is similar to nothing.

        Raises:
            IndexFull, WrongDimensions, ValueError (not finite).
        """
        self._check_dimensions(vector)
        length = math.hypot(*vector)
        if not math.isfinite(length):
            raise ValueError("a vector must be made of finite numbers")
        if id not in self._rows and len(self._rows) >= self._capacity:
            raise IndexFull(self._capacity)
        self.remove(id)
        self.dimensions = len(vector)
        used = tuple(column for column, value in enumerate(vector) if value)
        for column in used:
            self._columns[column][id] = vector[column] / length
        self._rows[id] = used, metadata

    def remove(self, id: str) -> bool:
        """False: it was not there."""
        row = self._rows.pop(id, None)
        if row is None:
            return False
        for column in row[0]:
            del self._columns[column][id]
        if not self._rows:
            self.dimensions = None
        return True

    def search(self, vector: Sequence[float], *, limit: int, min_score: float = -1.0) -> list[Neighbour]:
        """The ``limit`` most similar with at least ``min_score``, the best first, ties by id.

        Raises:
            WrongDimensions, ValueError (not finite).
        """
        if not self._rows:
            return []
        self._check_dimensions(vector)
        length = math.hypot(*vector)
        if not math.isfinite(length):
            raise ValueError("a vector must be made of finite numbers")
        scores = dict.fromkeys(self._rows, 0.0)
        for column, value in enumerate(vector):
            if value:
                part = value / length
                for id, other in self._columns.get(column, {}).items():
                    scores[id] += part * other
        best = heapq.nsmallest(limit, ((-score, id) for id, score in scores.items() if score >= min_score))
        return [Neighbour(id=id, score=max(-1.0, min(1.0, -negated)), metadata=self._rows[id][1]) for negated, id in best]

    def _check_dimensions(self, vector: Sequence[float]) -> None:
        if self.dimensions is not None and len(vector) != self.dimensions:
            raise WrongDimensions(len(vector), self.dimensions)
