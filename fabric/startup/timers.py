"""Many deadlines on one timer."""

from __future__ import annotations

import heapq
import math

Key = tuple[str, str, str]
"""What is due, of which service or gate, of which instance; unused parts are empty."""


class Timers:
    """At most one deadline for each key. Deterministic: what is due at the same time comes in the order of the keys."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def set(self, key: Key, at: float) -> None:
        """Replaces the deadline of ``key``; an infinite one is none."""
        if at == math.inf:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))

    def cancel(self, key: Key) -> None:
        self._at.pop(key, None)

    def cancel_kind(self, kind: str) -> None:
        """Removes every deadline whose key begins with ``kind``."""
        self._at = {key: at for key, at in self._at.items() if key[0] != kind}

    def get(self, key: Key) -> float | None:
        return self._at.get(key)

    def next(self) -> float | None:
        """The earliest deadline."""
        self._drop_void()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Key | None:
        """Removes and returns the earliest key that is due, or None."""
        self._drop_void()
        if not self._heap or self._heap[0][0] > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._at[key]
        return key

    def shift(self, seconds: float) -> None:
        """Moves every deadline, for time that does not count."""
        self._at = {key: at + seconds for key, at in self._at.items()}
        self._heap = [(at, key) for key, at in self._at.items()]
        heapq.heapify(self._heap)

    def items(self) -> list[tuple[Key, float]]:
        return sorted(self._at.items())

    def _drop_void(self) -> None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
