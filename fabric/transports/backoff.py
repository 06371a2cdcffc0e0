"""How long to wait before connecting again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), so that a fleet that lost its broker
    does not come back in one wave.

    Attributes:
        first: seconds that the first wait is at most. Less is back sooner; more spreads a large fleet better.
        most: seconds that any wait is at most.
    """

    first: float = 0.1
    most: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.most:
            raise ValueError(f"0 < first <= most must hold, not {self.first} and {self.most}")

    def delay(self, attempt: int, chance: random.Random) -> float:
        """Seconds before ``attempt``, from 0."""
        return chance.uniform(0, min(self.most, self.first * 2 ** min(attempt, 30)))
