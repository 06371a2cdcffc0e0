"""The profile of a start as an SVG picture: bars on one time axis, the gates, the critical path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from xml.sax.saxutils import escape

from fabric.cli.gantt import step_of
from fabric.startup.profile import ServiceProfile, StartupProfile

_COLOURS: Final[Mapping[str, str]] = {
    "start": "#2a78b5",
    "retry": "#c8502d",
    "slot": "#d9b23c",
    "gate": "#9a86c4",
    "dependency": "#d4d4d4",
    "optional": "#e6e6e6",
    "run": "#ececec",
}
_MEANINGS: Final[Mapping[str, str]] = {
    "start": "starting",
    "retry": "failed attempts",
    "slot": "waiting for a slot",
    "gate": "waiting for a gate",
    "dependency": "waiting for a dependency",
    "optional": "waiting for an optional one",
}
_ROW, _TOP, _CHARACTER, _RIGHT = 20, 64, 7.2, 90
_WIDTH: Final = 1100


def as_svg(profile: StartupProfile, *, fleet: str = "") -> str:
    """A whole document. Services stand in the order in which they were ready; each bar tells its times when pointed at."""
    left = 24 + _CHARACTER * max([len(service.name) for service in profile.services] or [0])
    scale = (_WIDTH - left - _RIGHT) / (profile.makespan or 1.0)
    bottom = _TOP + _ROW * len(profile.services)
    height = bottom + 64
    title = f"{fleet or 'fleet'}: {profile.outcome}, {profile.makespan:.2f} s"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
        f'<text x="16" y="40" fill="#555555">{escape(_summary(profile))}</text>',
        *_axis(profile.makespan, left, scale, bottom),
        *_gates(profile, left, scale, bottom),
    ]
    on_path = {part.name: part for part in profile.critical_path if part.kind in ("start", "retry")}
    for row, service in enumerate(profile.services):
        lines += _service(service, _TOP + _ROW * row, left, scale, on_path=service.name in on_path)
    lines += [*_legend(left, bottom + 44), "</svg>"]
    return "\n".join(lines) + "\n"


def _summary(profile: StartupProfile) -> str:
    path = " > ".join(f"{part.name or 'waiting'} {part.seconds:.2f}" for part in profile.critical_path)
    return f"parallel {profile.parallel_efficiency:.0%}, schedule {profile.schedule_efficiency:.0%}; critical path: {path}"


def _axis(makespan: float, left: float, scale: float, bottom: int) -> Iterator[str]:
    step = step_of(makespan, 10)
    tick = 0
    while tick * step <= makespan:
        x = left + tick * step * scale
        yield f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555555">{tick * step:g} s</text>'
        tick += 1


def _gates(profile: StartupProfile, left: float, scale: float, bottom: int) -> Iterator[str]:
    for gate in profile.gates:
        if gate.opened is not None:
            x = left + gate.opened * scale
            what = escape(f"the gate of {gate.stage} opened after {gate.opened:.3f} s")
            yield (
                f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#7a5fb0" stroke-width="1.5" '
                f'stroke-dasharray="4 3"><title>{what}</title></line>'
            )


def _service(service: ServiceProfile, top: int, left: float, scale: float, *, on_path: bool) -> Iterator[str]:
    weight = "700" if on_path else "400"
    colour = "#000000" if service.up else "#b02a1a"
    yield (
        f'<text x="{left - 8:.1f}" y="{top + 14}" text-anchor="end" font-weight="{weight}" fill="{colour}">'
        f"{escape(service.name)}</text>"
    )
    for part in service.stretches:
        thin = part.kind not in ("start", "retry")
        y, height = (top + 7, 6) if thin else (top + 3, 14)
        width = max(0.5, (part.end - part.start) * scale)
        edge = ' stroke="#0c2f4d" stroke-width="1.5"' if on_path and not thin else ""
        what = escape(f"{service.name}: {_what(part.kind, part.on)}, {part.end - part.start:.3f} s")
        yield (
            f'<rect x="{left + part.start * scale:.1f}" y="{y}" width="{width:.1f}" height="{height}" '
            f'fill="{_COLOURS.get(part.kind, "#d4d4d4")}"{edge}><title>{what}</title></rect>'
        )
    if service.ready is not None:
        yield f'<text x="{left + service.ready * scale + 6:.1f}" y="{top + 14}" fill="#555555">{service.own:.2f} s</text>'
    else:
        yield f'<text x="{left + 6:.1f}" y="{top + 14}" fill="#b02a1a">{escape(f"{service.state} {service.reason}"[:100])}</text>'


def _what(kind: str, on: str) -> str:
    return f"{_MEANINGS.get(kind, 'waiting')} {on}".strip()


def _legend(left: float, y: int) -> Iterator[str]:
    x = left
    for kind, meaning in _MEANINGS.items():
        yield f'<rect x="{x:.1f}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[kind]}"/>'
        yield f'<text x="{x + 16:.1f}" y="{y}">{meaning}</text>'
        x += 28 + 6.4 * len(meaning)
