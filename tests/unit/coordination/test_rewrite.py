"""Other stages in a fleet file, and the rest of it as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabric.coordination.fleet import parse_fleet
from fabric.coordination.rewrite import duration, with_stages
from fabric.errors import ConfigurationError
from fabric.startup.advice import Estimate
from fabric.startup.definition import RetryPolicy
from fabric.startup.stages import HealthGate, StartupStage

BEFORE = """\
# The shop.
name: shop
slots: 2   # the machine has two cores

services:
  store: {run: "shop:Store", critical: true, instances: 2}  # keep me
  web: {run: "shop:Web"}

# How it comes up.
stages:
  - name: base   # the first
    services: [store]
    gate: {required: [store]}
  - name: front
    services: [web]

# What follows.
x-mine: 1
"""
AFTER = """\
# The shop.
name: shop
slots: 3   # the machine has two cores

services:
  store: {run: "shop:Store", critical: true, instances: 2}  # keep me
  web: {run: "shop:Web"}

# How it comes up.
stages:
- name: all
  services: [store, web]
  gate:
    required: [store]
    instances: {store: 1}
    stable_for: 500ms
    successes: 2
  timeout: 90s
  skip_on_timeout: true
  retry: {attempts: 2, delay: 250ms, factor: 2.0, max_delay: 30s, reset_after: 60s}

# What follows.
x-mine: 1
prediction: {before: 8.0, after: 6.5, low: 1.0, high: 2.0}
"""
STAGES = (
    StartupStage(
        name="all",
        services=("store", "web"),
        health_gate=HealthGate(required=("store",), instances={"store": 1}, stable_for=0.5, successes=2),
        timeout=90.0,
        skip_on_timeout=True,
        retry_policy=RetryPolicy(attempts=2, delay=0.25),
    ),
)
GAIN = Estimate(before=8.0, after=6.5, low=1.0, high=2.0)


def test_the_rest_of_the_file_stays() -> None:
    """Stages, slots and prediction are exchanged in place; other keys, their comments and their layout are untouched."""
    changed = with_stages(BEFORE, "shop.yaml", STAGES, 3, GAIN)
    assert changed == AFTER
    assert parse_fleet(changed, "shop.yaml").prediction == GAIN
    assert with_stages(changed, "shop.yaml", STAGES, 3, GAIN) == changed


def test_what_is_not_wanted_any_more_goes() -> None:
    """Without a limit and without stages there are no such keys afterwards."""
    fleet = parse_fleet(with_stages(BEFORE, "shop.yaml", (), None, GAIN), "shop.yaml")
    assert (fleet.slots, fleet.stages) == (None, ())
    assert "slots" not in with_stages(BEFORE, "shop.yaml", (), None, GAIN)


@pytest.mark.parametrize(
    "text",
    [
        '{name: shop, services: {store: {run: "shop:Store", instances: 2}, web: {run: "shop:Web"}}}',
        "name: shop\nstages:\n  - {name: base, services: [web], retry: &often {attempts: 5}}\n"
        'services: {store: {run: "shop:Store", instances: 2, retry: *often}, web: {run: "shop:Web"}}\n',
    ],
    ids=["in one line", "an anchor in the stages"],
)
def test_where_it_can_not_be_done_in_place(text: str) -> None:
    """A file in one line, or one whose stages hold what others refer to, is written anew and says the same."""
    before, after = parse_fleet(text, "s.yaml"), parse_fleet(with_stages(text, "s.yaml", STAGES, None, GAIN), "s.yaml")
    assert [stage.name for stage in after.stages] == ["all"]
    assert after.runs == before.runs
    assert after.graph["store"].retry_policy == before.graph["store"].retry_policy


def test_the_reference_fleet_keeps_its_comments() -> None:
    """Written back with its own stages the reference fleet has all its services, comments included."""
    path = Path(__file__).parents[3] / "services/todo/fleet.yaml"
    text = path.read_text()
    changed = with_stages(text, path, parse_fleet(text, path).stages, None, GAIN)
    assert changed.startswith(text.partition("stages:")[0])
    assert [stage.name for stage in parse_fleet(changed, path).stages] == [stage.name for stage in parse_fleet(text, path).stages]


def test_stages_that_do_not_fit_are_refused() -> None:
    """Stages with a service that the file does not have can't be written."""
    with pytest.raises(ConfigurationError):
        with_stages(BEFORE, "shop.yaml", (StartupStage(name="all", services=("nobody",)),), None, GAIN)


def test_durations_are_written_as_people_do() -> None:
    """Whole minutes, seconds and milliseconds have their unit, all else is a number of seconds."""
    written = [duration(value) for value in (120, 90, 60, 1, 0.5, 0.0015, 1.25, 0)]
    assert written == ["2m", "90s", "60s", "1s", "500ms", 0.0015, "1250ms", 0]
