"""Runs beside each other: what changed between two, and what became of the times over many."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fabric.startup.history import Regression
from fabric.startup.profile import StartupProfile

_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One service in two runs. Own times and moments of readiness in seconds, None where it did not come up."""

    name: str
    own: tuple[float | None, float | None]
    ready: tuple[float | None, float | None]

    @property
    def longer(self) -> float:
        """Seconds by which its own time grew; 0 where it came up in one run only."""
        before, after = self.own
        return after - before if before is not None and after is not None else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What changed. ``joined`` and ``left`` of the critical path; ``changes`` with the largest first."""

    makespan: tuple[float, float]
    changes: tuple[Change, ...]
    joined: tuple[str, ...]
    left: tuple[str, ...]


def compare(before: StartupProfile, after: StartupProfile) -> Comparison:
    one, other = ({service.name: service for service in profile.services} for profile in (before, after))
    changes = []
    for name in dict.fromkeys([*one, *other]):
        pair = (one.get(name), other.get(name))
        own = tuple(service.own if service is not None and service.up else None for service in pair)
        ready = tuple(service.ready if service is not None else None for service in pair)
        changes.append(Change(name=name, own=(own[0], own[1]), ready=(ready[0], ready[1])))
    changes.sort(key=lambda change: (all(value is not None for value in change.own), -abs(change.longer), change.name))
    paths = [dict.fromkeys(part.name for part in profile.critical_path if part.kind == "start") for profile in (before, after)]
    return Comparison(
        makespan=(before.makespan, after.makespan),
        changes=tuple(changes),
        joined=tuple(name for name in paths[1] if name not in paths[0]),
        left=tuple(name for name in paths[0] if name not in paths[1]),
    )


def comparison_text(found: Comparison) -> str:
    """The makespan, each service's own time before and after, and who joined or left the critical path."""
    before, after = found.makespan
    width = max([len("service"), *(len(change.name) for change in found.changes)])
    lines = [f"makespan {before:.2f} s -> {after:.2f} s, {_difference(before, after)}", ""]
    lines.append(f"{'service':<{width}}  {'own':>8}  {'then':>8}  {'change':>8}  {'ready at':>8}  {'then':>8}")
    for change in found.changes:
        longer = f"{change.longer:+8.2f}" if None not in change.own else f"{'':>8}"
        cells = [_cell(change.own[0]), _cell(change.own[1]), longer, _cell(change.ready[0]), _cell(change.ready[1])]
        lines.append(f"{change.name:<{width}}  " + "  ".join(cells))
    if found.joined:
        lines += ["", f"now on the critical path: {', '.join(found.joined)}"]
    if found.left:
        lines += ["", f"no longer on the critical path: {', '.join(found.left)}"]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.2f}"


def _difference(before: float, after: float) -> str:
    return f"{after - before:+.2f} s" + (f" ({(after - before) / before:+.0%})" if before else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The own times of a service, or the makespans of the runs (``name`` empty), the oldest first. Seconds."""

    name: str
    times: tuple[float, ...]

    @property
    def usual(self) -> float:
        """The median."""
        return statistics.median(self.times)

    @property
    def spread(self) -> float:
        """The median distance from the median (MAD)."""
        return statistics.median(abs(time - self.usual) for time in self.times)


def courses(profiles: Sequence[StartupProfile]) -> tuple[Course, ...]:
    """Of the runs, then of their services, those with the longest times first.

    Args:
        profiles: the oldest first.
    """
    good = tuple(profile.makespan for profile in profiles if profile.ok)
    times: dict[str, list[float]] = {}
    for profile in profiles:
        for name, seconds in profile.durations.items():
            times.setdefault(name, []).append(seconds)
    found = [Course(name=name, times=tuple(values)) for name, values in times.items()]
    found.sort(key=lambda course: (-course.usual, course.name))
    return (*([Course(name="", times=good)] if good else []), *found)


def trend_text(profiles: Sequence[StartupProfile], slower: Sequence[Regression]) -> str:
    """A line for the runs and each service: its course, its last time, what is usual; then what became slower.

    Args:
        profiles: the oldest first.
    """
    found = courses(profiles)
    width = max([len("makespan"), *(len(course.name) for course in found)])
    size = max([len("course"), *(len(course.times) for course in found)])
    head = f"{'':<{width}}  {'course':<{size}}  {'last':>8}  {'usual':>8}  {'spread':>8}  {'runs':>4}"
    lines = [f"{len(profiles)} runs, {sum(profile.ok for profile in profiles)} of them came up", "", head]
    lines += [
        f"{course.name or 'makespan':<{width}}  {sparkline(course.times):<{size}}  {course.times[-1]:8.2f}  "
        f"{course.usual:8.2f}  {course.spread:8.2f}  {len(course.times):4d}"
        for course in found
    ]
    return "\n".join([*lines, *(["", *map(regression_text, slower)] if slower else [])])


def regression_text(found: Regression) -> str:
    """One line: what took longer than usual, and by how much."""
    what = found.service or "the whole start"
    times = f" ({found.seconds / found.usual:.1f} times)" if found.usual > 0 else ""
    return f"slower than usual: {what} took {found.seconds:.2f} s, usually {found.usual:.2f} s over {found.runs} runs{times}"


def sparkline(values: Sequence[float]) -> str:
    """One character a value, from zero to the largest."""
    most = max(values, default=0.0)
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int(len(_LEVELS) * value / most))] if most else _LEVELS[0] for value in values)
