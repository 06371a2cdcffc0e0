"""An average that believes bad news at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.routing.latency import TAU, PeakEwma
from tests.unit.wire.messages import unhurried

calls = st.lists(st.tuples(st.floats(0, 10), st.floats(0.0001, 30)), min_size=1, max_size=50)


@unhurried
@given(calls)
def test_it_stays_between_the_best_and_the_worst_of_what_it_saw(calls: list[tuple[float, float]]) -> None:
    """Right after a call it is at least as high as that call, and never above the worst one."""
    average = PeakEwma()
    now = 0.0
    for pause, seconds in calls:
        now += pause
        average.observe(seconds, now)
        assert seconds * (1 - 1e-9) <= average.value(now) <= max(took for _, took in calls) * (1 + 1e-9)


def test_a_peak_counts_at_once_and_fades() -> None:
    """One slow call is believed whole; quick ones bring it down over the time constant, not by their number."""
    average = PeakEwma()
    average.observe(0.01, 0.0)
    average.observe(1.0, 1.0)
    assert average.value(1.0) == 1.0
    for _ in range(1000):
        average.observe(0.01, 1.0)
    assert average.value(1.0) == pytest.approx(1.0)
    average.observe(0.01, 1.0 + TAU)
    assert average.value(1.0 + TAU) == pytest.approx(0.374, abs=0.01)


def test_silence_makes_it_worth_trying_again() -> None:
    """Without any call the memory of a peak fades too."""
    average = PeakEwma()
    assert average.value(0.0) == 0.0
    average.observe(1.0, 0.0)
    assert average.value(3 * TAU) < 0.06


def test_several_at_once_count_as_the_slowest_of_them() -> None:
    """Bad news is believed wherever in a body of answers it comes; all of them count as heard."""
    together, apart = PeakEwma(), PeakEwma()
    together.observe(0.3, 10.0, 3)
    for seconds in (0.1, 0.3, 0.2):
        apart.observe(seconds, 10.0)
    assert (together.value(12.0), together.count) == (apart.value(12.0), apart.count)
    assert together.value(10.0) == 0.3
