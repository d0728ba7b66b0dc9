"""Puts results into docs/benchmarks.md, between two markers, and draws them as SVG."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import ClassVar

import measure

DOCS = Path(__file__).resolve().parents[2] / "docs"
BEGIN, END = "<!-- peers: written by bench/peers.py --write -->", "<!-- peers: end -->"
WIDTH, LEFT, HEIGHT = 760, 250, 18
TOP = 2.0
"""Ratios beyond this are drawn at the edge."""

COLOURS = {"ours": "#0b6e4f", "peer": "#5b6b7b", "wrong": "#b3261e"}


@dataclass(frozen=True)
class Row:
    """One candidate at one shape. Ratios are to the baseline, `ms` is the median, sizes are megabytes."""

    HEADERS: ClassVar = ("model", "shape", "candidate", "ratio", "cosine", "worst", "is", "MB", "build s", "build MB")

    model: str
    shape: str
    candidate: str
    ratio: float
    low: float
    high: float
    ms: float
    cosine: float
    worst: float
    verdict: str
    megabytes: float
    build_seconds: float | None
    build_mb: float | None
    load: float
    ours: bool

    def cells(self) -> tuple[object, ...]:
        ratio = f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        build = [f"{value:.0f}" if value is not None else "-" for value in (self.build_seconds, self.build_mb)]
        cosines = (f"{self.cosine:.5f}", f"{self.worst:.5f}")
        return (self.model, self.shape, self.candidate, ratio, *cosines, self.verdict, f"{self.megabytes:.0f}", *build)


def publish(rows: Sequence[Row], asks: Sequence[measure.Ask], how: str) -> None:
    """Replace the section between the markers, and the plot."""
    page = DOCS / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    (DOCS / "images" / "peers.svg").write_text(svg(rows), encoding="utf-8")
    page.write_text(f"{before}{BEGIN}\n\n{section(rows, asks, how)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def section(rows: Sequence[Row], asks: Sequence[measure.Ask], how: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        today = dt.datetime.now(tz=dt.UTC).date()
        loads = [row.load for row in rows]
        print(f"{today}; {how}; load before each shape {min(loads):.1f} to {max(loads):.1f}")
        measure.print_machine("onnxruntime", "openvino", "torch")
        print("![Every candidate at every shape](images/peers.svg)\n")
        measure.print_table(Row.HEADERS, [row.cells() for row in rows])
        print()
        for ask in asks:
            print(f"- {ask}")
    return printed.getvalue()


def svg(rows: Sequence[Row]) -> str:
    """A dot with its quartiles for each candidate, by model and shape; readable without script or style sheet."""
    parts: list[str] = []
    y = 24
    for model, shape in dict.fromkeys((row.model, row.shape) for row in rows):
        parts.append(f'<text x="4" y="{y}" font-weight="bold">{escape(model)} {escape(shape)}</text>')
        y += HEIGHT
        chosen = sorted((row for row in rows if (row.model, row.shape) == (model, shape)), key=lambda row: row.ratio)
        for row in chosen:
            colour = COLOURS["wrong" if row.verdict == "wrong" else "ours" if row.ours else "peer"]
            parts.append(
                f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" fill="{colour}">{escape(row.candidate)}</text>'
            )
            low, middle, high = (_place(value) for value in (row.low, row.ratio, row.high))
            parts.append(f'<path d="M{low:.1f} {y - 4}H{high:.1f}" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<circle cx="{middle:.1f}" cy="{y - 4}" r="4" fill="{colour}"/>')
            words = f"{row.ratio:.2f}" + (f", wrong: cosine {row.cosine:.3f}" if row.verdict == "wrong" else "")
            parts.append(f'<text x="{high + 9:.1f}" y="{y}" fill="{colour}">{words}</text>')
            y += HEIGHT
        y += HEIGHT // 2
    line = f'<path d="M{_place(1):.1f} 8V{y}" stroke="#999" stroke-dasharray="3 3"/>'
    style = 'font-family="sans-serif" font-size="12"'
    frame = f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>'
    title = "<title>Latency over ONNX Runtime's default float session; less is better</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" {style}>'
        f"{title}{frame}{line}{''.join(parts)}</svg>\n"
    )


def _place(ratio: float) -> float:
    return LEFT + (WIDTH - LEFT - 150) * min(ratio, TOP) / TOP
