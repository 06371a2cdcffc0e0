"""The profile of a start as text: who took how long, what decided the whole, where it would pay to be faster."""

from __future__ import annotations

from fabric.startup.chain import Segment
from fabric.startup.profile import ServiceProfile, StartupProfile

_COLUMNS = ("ready at", "own", "waited", "gate", "slot", "retry", "slack")
_FEW = 3


def profile_text(profile: StartupProfile) -> str:
    """The whole profile. Seconds everywhere; a dash is nothing."""
    width = max([len("service"), *(len(service.name) for service in profile.services)])
    lines = ["  ".join([f"{'service':<{width}}", *(f"{column:>8}" for column in _COLUMNS)])]
    lines += ["  ".join([f"{service.name:<{width}}", *_cells(service)]).rstrip() for service in profile.services]
    lines += ["", f"critical path, {profile.makespan:.2f} s: {' > '.join(map(_segment, profile.critical_path)) or 'nothing'}"]
    gains = [part for part in profile.bottlenecks if part.gain >= 0.01][:_FEW]
    if gains:
        lines.append("most to gain: " + ", ".join(f"{part.name} (up to {part.gain:.2f} s)" for part in gains))
    slots = f"{profile.width} slots" if profile.slot_limited else f"at most {profile.width} at once"
    lines.append(
        f"work {profile.work:.2f} s, {slots}: parallel efficiency {profile.parallel_efficiency:.0%}, "
        f"schedule efficiency {profile.schedule_efficiency:.0%} of the best possible"
    )
    return "\n".join(lines)


def _cells(service: ServiceProfile) -> list[str]:
    if service.ready is None:
        return [f"{service.state:>8}"]
    times = (service.own, service.waiting, service.gate, service.slot, service.retry, service.slack)
    return [f"{service.ready:>8.2f}", *(f"{time:>8.2f}" if time >= 0.005 else f"{'-':>8}" for time in times)]


def _segment(part: Segment) -> str:
    what = {"start": part.name, "gate": f"gate {part.name}", "wait": "waiting"}.get(part.kind, f"{part.kind} {part.name}")
    return f"{what} {part.seconds:.2f}"
