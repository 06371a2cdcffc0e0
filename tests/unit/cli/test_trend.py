"""Runs beside each other."""

from __future__ import annotations

import dataclasses

from fabric.cli.trend import compare, comparison_text, courses, sparkline, trend_text
from fabric.startup.chain import Segment
from fabric.startup.history import ProfileHistory
from fabric.startup.profile import ServiceProfile
from tests.unit.cli.profiles import SHOP, at

COMPARED = """\
makespan 4.00 s -> 6.00 s, +2.00 s (+50%)

service       own      then    change  ready at      then
late            -      0.25                   -      0.25
mail            -         -                   -         -
web          1.50      3.50     +2.00      4.00      4.00
cache        1.00      1.00     +0.00      2.00      2.00
store        1.00      1.00     +0.00      1.00      1.00

now on the critical path: late

no longer on the critical path: store"""


def test_what_changed_between_two_runs() -> None:
    """Services that are in one run only come first, then the largest change; who joined or left the critical path is named."""
    other = at(2, web=3.5)
    late = ServiceProfile(name="late", critical=False, state="ready", own=0.25, ready=0.25)
    path = (Segment(kind="start", name="late", start=0, end=1), *SHOP.critical_path[1:])
    found = compare(SHOP, dataclasses.replace(other, services=(*other.services, late), critical_path=path))
    assert comparison_text(found) == COMPARED


def test_courses_of_times() -> None:
    """The makespan of runs that came up, then the services with the longest first, each with its usual time and spread."""
    runs = [at(1), at(2, web=2.0), at(3, web=9.0)]
    first, second, *_ = courses(runs)
    assert (first.name, first.times, first.usual, first.spread) == ("", (4.0, 4.5, 11.5), 4.5, 0.5)
    assert (second.name, second.times) == ("web", (1.5, 2.0, 9.0))


def test_a_trend_names_what_became_slower() -> None:
    """A service that took far longer than in the runs before is named with both times; steady ones are not."""
    runs = [at(number) for number in range(1, 6)] + [at(6, web=3.0)]
    with ProfileHistory(":memory:") as history:
        for run in runs:
            history.add("shop", run)
        text = trend_text(runs, history.regressions("shop", runs[-1]))
    assert text.startswith("6 runs, 6 of them came up\n")
    assert "slower than usual: web took 3.00 s, usually 1.50 s over 5 runs (2.0 times)" in text
    assert "slower than usual: the whole start took 5.50 s, usually 4.00 s over 5 runs (1.4 times)" in text
    assert "cache took" not in text
    assert f"web       {sparkline([1.5] * 5 + [3.0])}" in text


def test_sparklines() -> None:
    """From zero to the largest; nothing but zeros is a flat line."""
    assert sparkline([0, 1, 2, 4, 8]) == "▁▂▃▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
