"""Profiles of a small fleet, for the tests of what draws and compares them."""

from __future__ import annotations

import dataclasses

from fabric.startup.chain import Segment
from fabric.startup.events import Outcome
from fabric.startup.profile import Bottleneck, GateProfile, ServiceProfile, StartupProfile, Stretch


def part(kind: str, start: float, end: float, on: str = "") -> Stretch:
    return Stretch(kind=kind, on=on, start=start, end=end)


SHOP = StartupProfile(
    run="shop-1",
    outcome=Outcome.DEGRADED,
    reason="",
    started_at=1000.0,
    makespan=4.0,
    services=(
        ServiceProfile(
            name="store",
            critical=True,
            state="ready",
            attempts=1,
            own=1.0,
            begun=0.0,
            ready=1.0,
            stretches=(part("start", 0, 1),),
        ),
        ServiceProfile(
            name="cache",
            critical=False,
            state="ready",
            own=1.0,
            slot=1.0,
            begun=1.0,
            ready=2.0,
            slack=2.0,
            stretches=(part("slot", 0, 1), part("start", 1, 2)),
        ),
        ServiceProfile(
            name="web",
            critical=True,
            state="ready",
            attempts=2,
            own=1.5,
            waiting=1.0,
            gate=0.5,
            retry=1.0,
            begun=1.5,
            ready=4.0,
            stretches=(
                part("dependency", 0, 1, "store"),
                part("gate", 1, 1.5, "base"),
                part("retry", 1.5, 2.5),
                part("start", 2.5, 4),
            ),
        ),
        ServiceProfile(name="mail", critical=False, state="failed", reason="no <server> & no hope", retry=0.5),
    ),
    gates=(GateProfile(stage="base", state="open", entered=0.0, opened=1.5), GateProfile(stage="front", state="failed")),
    critical_path=(
        Segment(kind="start", name="store", start=0.0, end=1.0),
        Segment(kind="gate", name="base", start=1.0, end=1.5),
        Segment(kind="retry", name="web", start=1.5, end=2.5),
        Segment(kind="start", name="web", start=2.5, end=4.0),
    ),
    bottlenecks=(Bottleneck(name="web", seconds=1.5, gain=1.5),),
    work=3.5,
    width=2,
    bound=4.0,
)


def at(number: int, **own: float) -> StartupProfile:
    """The ``number``-th run, in which some services took another time."""
    services = tuple(dataclasses.replace(service, own=own.get(service.name, service.own)) for service in SHOP.services)
    longer = sum(after.own - before.own for before, after in zip(SHOP.services, services, strict=True))
    return dataclasses.replace(
        SHOP, run=f"shop-{number}", started_at=1000.0 * number, makespan=SHOP.makespan + longer, services=services
    )
