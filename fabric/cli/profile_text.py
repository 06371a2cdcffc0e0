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


def blame_text(profile: StartupProfile) -> str:
    """Who took how long, the longest own time first; waiting is nobody's fault and stands apart."""
    services = sorted(profile.services, key=lambda service: (-(service.own + service.retry), service.name))
    width = max([len("service"), *(len(service.name) for service in services)])
    lines = [f"{'own':>8}  {'retry':>8}  {'waited':>8}  {'service':<{width}}"]
    for service in services:
        waited = service.waiting + service.gate + service.slot
        cells = [f"{time:8.2f}" if time >= 0.005 else f"{'-':>8}" for time in (service.own, service.retry, waited)]
        lines.append("  ".join([*cells, service.name if service.up else f"{service.name:<{width}}  {service.state}"]))
    return "\n".join(lines)


def chain_text(profile: StartupProfile) -> str:
    """What decided how long the start took, step by step from its begin to its end; the seconds add up to the makespan."""
    lines = [f"{'at':>8}  {'took':>8}"]
    for part in profile.critical_path:
        slack = next((f", {s.slack:.2f} s of slack" for s in profile.services if s.name == part.name and s.slack >= 0.005), "")
        lines.append(f"{part.start:8.2f}  {part.seconds:8.2f}  {_step(part)}{slack if part.kind == 'start' else ''}")
    lines.append(f"{profile.makespan:8.2f}            {profile.outcome}")
    return "\n".join(lines)


def _step(part: Segment) -> str:
    match part.kind:
        case "start":
            return part.name
        case "gate":
            return f"the gate of {part.name}, after its services were ready"
        case "stage":
            return f"the stage {part.name}, until its time was over"
        case "retry":
            return f"failed attempts of {part.name}"
        case "optional":
            return f"{part.name} waited for what is optional to it"
        case _:
            return f"nothing of the run's own was under way{f', then {part.name}' if part.name else ''}"
