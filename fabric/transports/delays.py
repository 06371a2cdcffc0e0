"""How long a message can be held back, and in which steps."""

from __future__ import annotations

MOST_DELAY = 7 * 86_400.0
"""Seconds. Longer is for a store of one's own, where it can be seen and changed."""


def check_delay(delay: float | None, *, expires: float | None, mandatory: bool) -> None:
    """
    Raises:
        ValueError: not above 0 and at most seven days, or with what would have to hold until then.
    """
    if delay is None:
        return
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 < delay <= MOST_DELAY:
        raise ValueError(f"a delay is above 0 and at most {MOST_DELAY:.0f} seconds (7 days), not {delay!r}")
    if expires is not None or mandatory:
        raise ValueError("what is delayed can neither expire nor be mandatory: nobody knows yet who takes it then")


def step(delay: float) -> int:
    """``delay`` seconds in milliseconds, rounded up to two significant digits. There are fewer than 700 steps up to the longest
    delay, and RabbitMQ needs a queue for each."""
    milliseconds = max(1, -int(-delay * 1000 // 1))
    unit = 1
    while -(-milliseconds // unit) >= 100:
        unit *= 10
    return -(-milliseconds // unit) * unit
