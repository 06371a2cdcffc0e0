"""When a breaker opens, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to stop calling, and when to try again.

    Attributes:
        window: seconds looked back on. Longer is calmer and slower.
        minimum_calls: in the window before a rate counts; fewer would let two failures at night trip it.
        failure_rate: share of failed calls from which it opens; above 1 never.
        slow_call: seconds from which a call counts as slow; None: none does.
        slow_rate: share of slow calls from which it opens.
        consecutive_failures: in a row, from which it opens whatever the rate; 0: not counted.
        open_for: seconds until it is tried again; doubles each time that fails.
        open_at_most: seconds that this never passes.
        probes: calls let through to try it. It closes when that many succeeded, and opens again at the first that does not.
    """

    window: float = 10.0
    minimum_calls: int = 20
    failure_rate: float = 0.5
    slow_call: float | None = None
    slow_rate: float = 1.0
    consecutive_failures: int = 0
    open_for: float = 2.0
    open_at_most: float = 60.0
    probes: int = 3

    def __post_init__(self) -> None:
        sound = (
            0 < self.window <= 3600
            and self.minimum_calls >= 1
            and self.failure_rate > 0
            and (self.slow_call is None or self.slow_call > 0)
            and self.slow_rate > 0
            and self.consecutive_failures >= 0
            and 0 < self.open_for <= self.open_at_most <= 3600
            and self.probes >= 1
        )
        if not sound:
            raise ConfigurationError(
                f"not a breaker policy: {self}; times are seconds above 0 and up to an hour, open_for is at most open_at_most,"
                " rates are above 0, minimum_calls and probes at least 1"
            )
