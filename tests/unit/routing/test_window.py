"""Counting over the last seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fabric.routing.window import STEPS, Window
from tests.unit.wire.messages import unhurried

events = st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.booleans()), max_size=200)


@unhurried
@given(seconds=st.sampled_from([0.5, 1.0, 10.0, 60.0]), start=st.floats(0, 1e6), events=events)
def test_it_counts_what_a_list_of_all_calls_says(seconds: float, start: float, events: list[tuple[float, bool, bool]]) -> None:
    """Whatever the pauses, the counts are those of the calls in the last ten steps, counted one by one."""
    window = Window(seconds)
    step = seconds / STEPS
    now = start
    every: list[tuple[int, bool, bool]] = []
    for pause, failed, slow in events:
        now += pause
        window.add(now, failed=failed, slow=slow)
        every.append((int(now / step), failed, slow))
        recent = [event for event in every if event[0] > int(now / step) - STEPS]
        assert window.calls == len(recent)
        assert window.failures == sum(failed for _, failed, _ in recent)
        assert window.slow == sum(slow for _, _, slow in recent)


def test_cleared_it_begins_anew() -> None:
    """After clear nothing of before counts."""
    window = Window(10.0)
    for n in range(50):
        window.add(n / 10, failed=True, slow=True)
    window.clear()
    window.add(5.0, failed=False, slow=False)
    assert (window.calls, window.failures, window.slow) == (1, 0, 0)
