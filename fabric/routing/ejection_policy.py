"""When an instance is left out, and how many must be left."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.errors import ConfigurationError
from fabric.routing.breaker_policy import BreakerPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectionPolicy:
    """When an instance is left out.

    Attributes:
        breaker: of each instance; its ``open_for`` is how long an instance is left out at first, its ``probes`` how many
            calls try it.
        slower_than: how many times the median latency of its peers a call must take to count as slow; 0: none is slow.
            Less ejects sooner, and for smaller differences.
        slow_from: seconds below which no call is slow, whatever the peers do.
        panic: share of the instances that must be left: with fewer all are called, for some answer may be better than none.
    """

    breaker: BreakerPolicy = field(
        default_factory=lambda: BreakerPolicy(minimum_calls=10, slow_rate=0.5, consecutive_failures=5, probes=1)
    )
    slower_than: float = 5.0
    slow_from: float = 0.1
    panic: float = 0.5

    def __post_init__(self) -> None:
        if not ((self.slower_than == 0 or self.slower_than > 1) and self.slow_from > 0 and 0 <= self.panic <= 1):
            raise ConfigurationError(
                f"not an ejection policy: {self}; slower_than is 0 or above 1, slow_from above 0 s, panic between 0 and 1"
            )
