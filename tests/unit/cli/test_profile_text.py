"""The profile of a start as text."""

from __future__ import annotations

from fabric.cli.outcome import profile_of
from fabric.cli.profile_text import profile_text
from fabric.coordination.status import FleetStatus, RunState
from fabric.startup.chain import Segment
from fabric.startup.codec import dump
from fabric.startup.events import Outcome
from fabric.startup.profile import Bottleneck, ServiceProfile, StartupProfile

PROFILE = StartupProfile(
    run="r1",
    outcome=Outcome.FAILED,
    reason="store failed",
    started_at=0.0,
    makespan=3.0,
    services=(
        ServiceProfile(name="cache", critical=False, state="ready", own=1.0, ready=1.0, slack=0.5),
        ServiceProfile(name="web", critical=True, state="ready", own=2.0, waiting=0.75, gate=0.25, ready=3.0),
        ServiceProfile(name="store", critical=True, state="failed"),
    ),
    critical_path=(
        Segment(kind="start", name="cache", start=0.0, end=1.0),
        Segment(kind="gate", name="base", start=1.0, end=1.25),
        Segment(kind="retry", name="web", start=1.25, end=3.0),
    ),
    bottlenecks=(Bottleneck(name="web", seconds=2.0, gain=1.5), Bottleneck(name="cache", seconds=1.0, gain=0.0)),
    work=3.0,
    width=2,
    bound=1.5,
    slot_limited=True,
)

TEXT = """\
service  ready at       own    waited      gate      slot     retry     slack
cache        1.00      1.00         -         -         -         -      0.50
web          3.00      2.00      0.75      0.25         -         -         -
store      failed

critical path, 3.00 s: cache 1.00 > gate base 0.25 > retry web 1.75
most to gain: web (up to 1.50 s)
work 3.00 s, 2 slots: parallel efficiency 50%, schedule efficiency 50% of the best possible"""


def test_the_profile_as_text() -> None:
    """Each service with its own time apart from its waiting, the critical path with its sum, what it would pay to mend."""
    assert profile_text(PROFILE) == TEXT


def test_the_profile_of_a_status() -> None:
    """What the coordinator sends is read back as it was; before the end of a start there is none."""
    status = FleetStatus(fleet="shop", run="r1", epoch=1, state=RunState.FAILED, profile=dump(PROFILE))
    assert profile_of(status) == PROFILE
    assert profile_of(status.model_copy(update={"profile": None})) is None
