"""The steps in which messages can be held back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.transports.delays import MOST_DELAY, check_delay, step


@given(st.floats(min_value=0, max_value=MOST_DELAY, exclude_min=True))
def test_a_step_is_never_too_short(delay: float) -> None:
    """It is at least the delay, at most a tenth or a millisecond longer, and has two significant digits."""
    milliseconds = step(delay)
    assert delay * 1000 <= milliseconds <= max(delay * 1000 * 1.1, delay * 1000 + 1)
    assert len(str(milliseconds).rstrip("0")) <= 2


@pytest.mark.parametrize(
    ("delay", "milliseconds"), [(0.0001, 1), (0.1, 100), (0.1001, 110), (1, 1000), (99.1, 100_000), (61, 61_000)]
)
def test_steps(delay: float, milliseconds: int) -> None:
    """Rounded up, never down."""
    assert step(delay) == milliseconds


def test_there_are_few_steps() -> None:
    """RabbitMQ needs a queue for each: every reachable one counted, they are fewer than 700."""
    reached = set()
    at = 1
    while at <= MOST_DELAY * 1000:
        reached.add(step(at / 1000))
        at = max(reached) + 1
    assert len(reached) < 700


def test_a_delay_excludes_what_counts_until_the_first_delivery() -> None:
    """No delay goes with everything; a delay with neither expiry nor mandatory."""
    check_delay(None, expires=1.0, mandatory=True)
    check_delay(MOST_DELAY, expires=None, mandatory=False)
    with pytest.raises(ValueError, match="neither expire"):
        check_delay(1.0, expires=1.0, mandatory=False)
