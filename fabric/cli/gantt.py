"""The profile of a start as bars on one time axis, in text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

from fabric.startup.profile import ServiceProfile, StartupProfile, Stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """One character for each kind of time. ``gate`` stands where a gate opened."""

    start: str
    retry: str
    waiting: str
    gate_wait: str
    slot: str
    opened: str

    def of(self, stretch: Stretch) -> str:
        by_kind = {"start": self.start, "retry": self.retry, "gate": self.gate_wait, "slot": self.slot}
        return by_kind.get(stretch.kind, self.waiting)


BLOCKS: Final = Marks(start="█", retry="▒", waiting="·", gate_wait="┄", slot="░", opened="◆")
ASCII: Final = Marks(start="#", retry="x", waiting=".", gate_wait="-", slot="~", opened="|")


def marks_for(encoding: str | None) -> Marks:
    """Blocks where they can be written."""
    try:
        "".join(astuple(BLOCKS)).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


_STRENGTH: Final[Mapping[str, int]] = {"start": 3, "retry": 2}
"""What is shown where several share one character; the rest are alike."""
_LEAST_BARS = 20


def gantt(profile: StartupProfile, *, width: int = 100, marks: Marks = BLOCKS, most: int = 60) -> str:
    """Bars of all services in the order in which they were ready, then the gates, then the axis.

    Args:
        width: characters of a line.
        most: services shown; of more, those that waited or worked longest.
    """
    shown = _shown(profile, most)
    names = [*(service.name for service in shown), *(f"gate {gate.stage}" for gate in profile.gates)]
    left = max(map(len, names), default=0)
    cells = max(_LEAST_BARS, width - left - 10)
    on_path = {part.name for part in profile.critical_path if part.kind in ("start", "retry")}
    lines = []
    for service in shown:
        end = f"{service.ready:8.2f}" if service.ready is not None else f"{service.state:>8}"
        star = "*" if service.name in on_path else " "
        lines.append(f"{service.name:<{left}}{star}{_bar(service, profile.makespan, cells, marks)}{end}")
    for gate in profile.gates:
        bar = [" "] * cells
        if gate.opened is not None:
            bar[_cell(gate.opened, profile.makespan, cells)] = marks.opened
        end = f"{gate.opened:8.2f}" if gate.opened is not None else f"{gate.state:>8}"
        lines.append(f"{f'gate {gate.stage}':<{left}} {''.join(bar)}{end}")
    lines.append(f"{'':<{left}} {_axis(profile.makespan, cells)}")
    legend = [f"{marks.start} starting", f"{marks.retry} failed attempts", "* on the critical path"]
    waits = [f"{marks.waiting} for a dependency", f"{marks.gate_wait} for a gate", f"{marks.slot} for a slot"]
    waits.append(f"{marks.opened} a gate opens")
    lines += [f"{'':<{left}} {'  '.join(legend)}", f"{'':<{left}} waiting: {'  '.join(waits)}"]
    if left_out := len(profile.services) - len(shown):
        lines.append(f"{'':<{left}} and {left_out} more services, which took less; `fabric profile plot` draws all")
    return "\n".join(line.rstrip() for line in lines)


def _shown(profile: StartupProfile, most: int) -> list[ServiceProfile]:
    if len(profile.services) <= most:
        return list(profile.services)
    longest = sorted(profile.services, key=lambda service: -(service.own + service.retry))[:most]
    kept = {service.name for service in longest}
    return [service for service in profile.services if service.name in kept]


def _bar(service: ServiceProfile, makespan: float, cells: int, marks: Marks) -> str:
    bar, strength = [" "] * cells, [-1] * cells
    for stretch in service.stretches:
        first = _cell(stretch.start, makespan, cells)
        last = cells if stretch.end >= makespan else _cell(stretch.end, makespan, cells)
        rank = _STRENGTH.get(stretch.kind, 0)
        # a stretch ends where the next begins: the cell that they share belongs to what is more telling
        for cell in range(first, max(first + 1, last)):
            if rank > strength[cell]:
                bar[cell], strength[cell] = marks.of(stretch), rank
    return "".join(bar)


def _cell(seconds: float, makespan: float, cells: int) -> int:
    return min(cells - 1, int(cells * seconds / makespan)) if makespan > 0 else 0


def step_of(makespan: float, most: int) -> float:
    """A round number of seconds such that at most ``most`` such steps make ``makespan``."""
    if makespan <= 0:
        return 1.0
    step = 0.001
    while True:
        for factor in (1, 2, 5):
            if makespan / (step * factor) <= most:
                return step * factor
        step *= 10


def _axis(makespan: float, cells: int) -> str:
    step = step_of(makespan, max(1, cells // 10))
    axis = [" "] * (cells + 8)
    tick = 0
    while tick * step <= makespan:
        at = _cell(tick * step, makespan, cells) if tick * step < makespan else cells
        text = f"{tick * step:g}"
        axis[at : at + len(text)] = text
        tick += 1
    return "".join(axis).rstrip() + " s"
