"""Puts results into docs/benchmarks.md, between two markers, and draws them as SVG."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
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
    """One candidate at one shape.

    `ratio` with its quartiles is to the baseline, `ms` is the median latency, `floor` how many times the latency is
    that of the multiply-accumulates alone at the machine's peak for the candidate's data type; sizes are megabytes,
    `run_mb` what opening and running it takes at the largest shape.
    """

    HEADERS: ClassVar = (
        "model", "shape", "candidate", "ratio", "cosine", "worst", "is", "ms", "floors",
        "MB", "run MB", "build s", "build MB",
    )  # fmt: skip

    model: str
    shape: str
    candidate: str
    ratio: float
    low: float
    high: float
    ms: float
    floors: float
    cosine: float
    worst: float
    verdict: str
    megabytes: float
    run_mb: float | None
    build_seconds: float | None
    build_mb: float | None
    load: float
    ours: bool

    def cells(self) -> tuple[object, ...]:
        ratio = f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        cosines = (f"{self.cosine:.5f}", f"{self.worst:.5f}")
        memory = [f"{value:.0f}" if value is not None else "-" for value in (self.run_mb,)]
        build = [f"{value:.0f}" if value is not None else "-" for value in (self.build_seconds, self.build_mb)]
        figures = (f"{self.ms:.2f}", f"{self.floors:.1f}", f"{self.megabytes:.0f}")
        return (self.model, self.shape, self.candidate, ratio, *cosines, self.verdict, *figures, *memory, *build)


@dataclass
class Measured:
    """What one model's run printed, as it is kept in the work folder until it is published."""

    date: str
    how: str
    machine: str
    peaks: dict[str, float]
    rows: list[Row] = field(default_factory=list["Row"])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def save(self, path: Path) -> None:
        """Write it; rows of other shapes that are there already stay."""
        if path.exists():
            shapes = {row.shape for row in self.rows}
            self.rows = [row for row in Measured.load(path).rows if row.shape not in shapes] + self.rows
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Measured:
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**found, "rows": [Row(**row) for row in found["rows"]]})


def publish(found: Sequence[Measured], asks: Sequence[measure.Ask]) -> None:
    """Replace the section between the markers, and the plot."""
    page = DOCS / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    (DOCS / "images" / "peers.svg").write_text(svg([row for each in found for row in each.rows]), encoding="utf-8")
    page.write_text(f"{before}{BEGIN}\n\n{section(found, asks)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def section(found: Sequence[Measured], asks: Sequence[measure.Ask]) -> str:
    """Asks first, then the plot, a table for each model, and what was left out."""
    lines = [f"- {ask}" for ask in asks] + ["", "![Every candidate at every shape](images/peers.svg)"]
    for each in found:
        loads = [row.load for row in each.rows]
        peaks = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in each.peaks.items())
        printed = io.StringIO()
        with redirect_stdout(printed):
            measure.print_table(Row.HEADERS[1:], [row.cells()[1:] for row in each.rows])
        lines += [
            "",
            f"**{each.rows[0].model}**, {each.date}, {each.how}, load {min(loads):.1f} to {max(loads):.1f}; "
            f"{each.machine}. Peaks in G/s: {peaks}.",
            "",
            printed.getvalue().rstrip(),
        ]
        if each.left_out:
            lines += ["", "Left out: " + "; ".join(f"{name} ({why})" for name, why in each.left_out.items()) + "."]
    return "\n".join(lines) + "\n"


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
