"""Small plots as SVG, by hand: bars for contestants, lines for growth. They read on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, ROW, MARGIN = 720, 26, 48
COLOURS = ("#2a78d6", "#d9730d", "#2e9e5b", "#a54bc4", "#c43b4b")
_TEXT = 'font-family="sans-serif" font-size="12" fill="#7a7a7a"'


def _svg(height: int, parts: Sequence[str]) -> str:
    inner = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n{inner}\n</svg>\n'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_TEXT}>{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(title: str, values: Mapping[str, float]) -> str:
    """A bar for each, the first in a colour of its own; zero is at the left."""
    longest = max(values.values())
    left, room = 210, WIDTH - 210 - 80
    parts = [_text(8, 20, title)]
    for place, (name, value) in enumerate(values.items()):
        y = 34 + place * ROW
        width = max(1.0, room * value / longest)
        colour = COLOURS[0] if place == 0 else "#9aa4b2"
        parts.append(_text(left - 8, y + 14, name, "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        parts.append(_text(left + width + 6, y + 14, _number(value)))
    return _svg(44 + ROW * len(values), parts)


def lines(title: str, along: str, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> str:
    """A line for each of ``series`` over ``xs``, which grow by factors; the upright axis begins at zero."""
    height = 300
    right, bottom = WIDTH - 150, height - MARGIN
    top_value = max(max(values) for values in series.values()) or 1.0
    span = math.log(xs[-1] / xs[0]) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return MARGIN + 30 + (right - MARGIN - 30) * math.log(x / xs[0]) / span, bottom - (bottom - 40) * y / top_value

    parts = [_text(8, 20, title), _text((MARGIN + right) / 2, height - 8, along, "middle")]
    for share in (0.0, 0.5, 1.0):
        _, y = at(xs[0], top_value * share)
        parts.append(f'<line x1="{MARGIN + 30}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#9aa4b255"/>')
        parts.append(_text(MARGIN + 24, y + 4, _number(top_value * share), "end"))
    parts += [_text(at(x, 0)[0], bottom + 18, _number(x), "middle") for x in xs]
    for place, (name, values) in enumerate(series.items()):
        points = [at(x, y) for x, y in zip(xs, values, strict=True)]
        colour = COLOURS[place % len(COLOURS)]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(_text(points[-1][0] + 8, points[-1][1] + 4, name))
    return _svg(height, parts)
