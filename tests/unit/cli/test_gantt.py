"""A start as bars, in text and as a picture."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as xml

from fabric.cli.gantt import ASCII, BLOCKS, gantt, marks_for, step_of
from fabric.cli.svg import as_svg
from fabric.startup.profile import ServiceProfile
from tests.unit.cli.profiles import SHOP, part

BARS = """\
store     *##########                                  1.00
cache      ~~~~~~~~~~##########                        2.00
web       *..........-----xxxxxxxxxx###############    4.00
mail                                                 failed
gate base                 |                            1.50
gate front                                           failed
           0         1         2         3         4 s
           # starting  x failed attempts  * on the critical path
           waiting: . for a dependency  - for a gate  ~ for a slot  | a gate opens"""

SVG = "{http://www.w3.org/2000/svg}"


def test_bars() -> None:
    """Each service's waiting, attempts and start lie where they were in time; gates and the critical path are marked."""
    assert gantt(SHOP, width=60, marks=ASCII) == BARS


def test_what_is_most_telling_wins_a_cell() -> None:
    """A short start is still seen where a cell is much longer than it."""
    short = ServiceProfile(
        name="quick",
        critical=True,
        state="ready",
        own=0.01,
        ready=2.01,
        stretches=(part("dependency", 0, 2), part("start", 2, 2.01)),
    )
    first = gantt(dataclasses.replace(SHOP, services=(short,)), width=60, marks=ASCII).splitlines()[0]
    assert first.count("#") == 1


def test_large_fleets_are_cut() -> None:
    """Of more services than there is room for, those that worked longest are shown, and the rest is counted."""
    text = gantt(SHOP, width=60, marks=ASCII, most=2)
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["store", "web", "gate"]
    assert "and 2 more services, which took less" in text


def test_a_run_of_no_time() -> None:
    """A run in which nothing happened is drawn without a division by zero."""
    empty = dataclasses.replace(SHOP, makespan=0.0, services=(), gates=(), critical_path=())
    assert "starting" in gantt(empty)
    xml.fromstring(as_svg(empty))


def test_blocks_only_where_they_can_be_written() -> None:
    """A stream that can't hold block characters gets plain ones."""
    assert marks_for("utf-8") is BLOCKS
    assert marks_for("latin-1") is ASCII
    assert marks_for(None) is ASCII
    assert marks_for("no such encoding") is ASCII


def test_steps_of_the_axis_are_round() -> None:
    """Ticks are at 1, 2 or 5 times a power of ten."""
    assert [step_of(makespan, 10) for makespan in (0, 0.5, 4, 10, 11, 60, 450)] == [1, 0.05, 0.5, 1, 2, 10, 50]


def test_the_picture_holds_every_service_and_gate() -> None:
    """The SVG is well-formed, names each service and gate, has a bar for each stretch with its time, and scales with time."""
    root = xml.fromstring(as_svg(SHOP, fleet="<shop> & co"))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"store", "cache", "web", "mail"} <= set(texts)
    assert texts[0] == "<shop> & co: degraded, 4.00 s"
    assert "failed no <server> & no hope" in texts
    told = {title.text: bar for bar in root.iter(f"{SVG}rect") if (title := bar.find(f"{SVG}title")) is not None}
    assert len(told) == sum(len(service.stretches) for service in SHOP.services)
    retry, start = told["web: failed attempts, 1.000 s"], told["web: starting, 1.500 s"]
    assert abs(float(start.attrib["width"]) / float(retry.attrib["width"]) - 1.5) < 0.01
    assert any(title.text == "the gate of base opened after 1.500 s" for title in root.iter(f"{SVG}title"))
