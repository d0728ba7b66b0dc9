"""The report's figures as inline SVG: no script, no style of their own, colours by class, readable when printed.

Every function takes values and gives Markup. Coordinates are those of a 720 wide canvas that scales with the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH: Final = 720
LABELS: Final = 230
"""Where the plot begins; labels stand to the left of it."""

VALUES: Final = 110
"""Room for the values to the right of the plot."""

ROW: Final = 22
_PLOT = WIDTH - LABELS - VALUES
_CHARACTERS = 34


@dataclass(frozen=True)
class Bar:
    """One row. `kind` is the CSS class that colours it; `low` and `high` draw a whisker."""

    label: str
    value: float
    text: str
    kind: str = "engine"
    low: float | None = None
    high: float | None = None


def bars(title: str, rows: Sequence[Bar]) -> Markup:
    """Horizontal bars from zero on one linear scale, each with its value and, where given, its spread.

    A spread beyond twice the largest value is cut off there: it would leave nothing to see of the values.
    """
    largest = max((row.value for row in rows), default=0.0)
    top = min(2 * largest, max((row.high or row.value for row in rows), default=0.0)) or 1.0
    parts: list[str] = []
    for index, row in enumerate(rows):
        y = index * ROW
        parts.append(_label(row.label, y))
        parts.append(
            f'<rect class="{row.kind}" x="{LABELS}" y="{y + 5}" width="{_width(row.value, top)}" height="{ROW - 10}"/>'
        )
        if row.low is not None and row.high is not None:
            parts.append(_whisker(LABELS + _place(row.low, top), LABELS + _place(row.high, top), y))
        parts.append(_value(row.text, y))
    return _svg(title, len(rows) * ROW, parts)


def stacked(title: str, pieces: Sequence[Bar]) -> Markup:
    """One bar made of pieces that add up to the whole; pieces of no size are left out."""
    total = sum(piece.value for piece in pieces) or 1.0
    parts: list[str] = []
    x = 0.0
    for piece in pieces:
        width = WIDTH * piece.value / total
        if width:
            parts.append(f'<rect class="{piece.kind}" x="{x:.1f}" y="2" width="{width:.1f}" height="{ROW}"/>')
            if width > 9 * len(piece.text):
                parts.append(f'<text class="inside" x="{x + 6:.1f}" y="{ROW - 4}">{escape(piece.text)}</text>')
        x += width
    return _svg(title, ROW + 4, parts)


def dots(title: str, rows: Sequence[Bar], *, bound: float | None = None, bound_text: str = "") -> Markup:
    """Positive values on a logarithmic scale, a dot each, and the bound that they must stay below."""
    values = [row.value for row in rows if row.value > 0] + ([bound] if bound else [])
    low = math.floor(math.log10(min(values, default=1e-9)))
    high = max(math.ceil(math.log10(max(values, default=1.0))), low + 1)

    def place(value: float) -> float:
        return LABELS + _PLOT * (max(math.log10(value), low) - low if value > 0 else 0.0) / (high - low)

    height = len(rows) * ROW
    parts: list[str] = []
    step = max(1, (high - low) // 6)
    for exponent in range(low, high + 1, step):
        x = place(10.0**exponent)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height}"/>')
        parts.append(f'<text class="axis" x="{x:.1f}" y="{height + 14}">1e{exponent}</text>')
    for index, row in enumerate(rows):
        y = index * ROW
        parts.append(_label(row.label, y))
        parts.append(f'<circle class="{row.kind}" cx="{place(row.value):.1f}" cy="{y + ROW / 2}" r="5"/>')
        parts.append(_value(row.text, y))
    if bound:
        x = place(bound)
        parts.append(f'<line class="bound" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height}"/>')
        parts.append(f'<text class="axis bound" x="{x:.1f}" y="{height + 28}">{escape(bound_text)}</text>')
    return _svg(title, height + 32, parts)


def depth_line(title: str, labels: Sequence[str], values: Sequence[float], unit: str) -> Markup:
    """Values in order of depth as one line, lowest point marked by name."""
    height, left = 160, 46
    low, high = min(values), max(values)
    low, high = math.floor(min(low, 0.0) / 10) * 10, (math.floor(high / 10) + 1) * 10

    def point(index: int) -> tuple[float, float]:
        x = left + (WIDTH - left - 10) * (index / (len(values) - 1) if len(values) > 1 else 0.5)
        return x, height * (1 - (values[index] - low) / (high - low))

    parts: list[str] = []
    step = max(10, math.ceil((high - low) / 50) * 10)
    for tick in range(int(low), int(high) + 1, step):
        y = height * (1 - (tick - low) / (high - low))
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>')
        parts.append(f'<text class="label" x="{left - 6}" y="{y + 4:.1f}">{tick}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(point, range(len(values))))
    parts.append(f'<polyline class="line" points="{path}"/>')
    for index, label in enumerate(labels):
        x, y = point(index)
        tip = escape(f"{label}: {values[index]:.1f} {unit}")
        parts.append(f'<circle class="engine" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{tip}</title></circle>')
    worst = min(range(len(values)), key=lambda index: values[index])
    x, y = point(worst)
    side = "end" if x > WIDTH / 2 else "start"
    text = escape(f"lowest: {_short(labels[worst])}, {values[worst]:.1f} {unit}")
    parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    parts.append(f'<text class="note {side}" x="{x:.1f}" y="{min(y + 18, height + 14):.1f}">{text}</text>')
    return _svg(title, height + 20, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> Markup:
    from markupsafe import Markup

    body = "".join(parts)
    name = escape(title, quote=True)
    return Markup(  # noqa: S704 (every text in `parts` was escaped where it was made)
        f'<svg viewBox="0 -10 {WIDTH} {height + 14}" role="img" aria-label="{name}">{body}</svg>'
    )


def _label(text: str, y: float) -> str:
    full = escape(text)
    return f'<text class="label" x="{LABELS - 8}" y="{y + 15}">{escape(_short(text))}<title>{full}</title></text>'


def _value(text: str, y: float) -> str:
    return f'<text class="value" x="{WIDTH - VALUES + 8}" y="{y + 15}">{escape(text)}</text>'


def _whisker(left: float, right: float, y: float) -> str:
    middle = y + ROW / 2
    lines = ((left, middle, right, middle), (left, y + 6, left, y + ROW - 6), (right, y + 6, right, y + ROW - 6))
    return "".join(
        f'<line class="whisker" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>' for a, b, c, d in lines
    )


def _place(value: float, top: float) -> float:
    return _PLOT * min(max(value / top, 0.0), 1.0)


def _width(value: float, top: float) -> str:
    # A hair's breadth, so that a tiny value is still seen.
    return f"{max(_place(value, top), 1.0):.1f}"


def _short(text: str) -> str:
    """Names of nodes are told apart by their ends."""
    return text if len(text) <= _CHARACTERS else "…" + text[-_CHARACTERS + 1 :]
