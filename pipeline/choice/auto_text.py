"""What `auto` chose from, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from enginery.pipeline.choice.advice_text import table_lines
from enginery.pipeline.report.document import milliseconds

if TYPE_CHECKING:
    from enginery.pipeline.report import Candidate, ShapeTime

MOST_REASON = 60
"""Characters of a reason; the report and --json have the whole."""


def candidate_lines(candidates: Sequence[Candidate]) -> Iterator[str]:
    """The table of candidates that `enginery build` prints, the choice first."""
    raced = next((each.shapes for each in candidates if each.shapes), ())
    floats = any(each.precision == "fp32" and each.shapes for each in candidates)
    compared = floats or sum(bool(each.shapes) for each in candidates) > 1
    heads = ("outcome", "engine", "size", *(["mean"] if compared else []), *(each.shape for each in raced), "reason")
    rows: list[tuple[str, ...]] = []
    for each in candidates:
        options = "".join(f", {key} {value}" for key, value in each.options.items())
        times = [milliseconds(time.median_ms) + (f" ({time.ratio:.2f})" if compared else "") for time in each.shapes]
        mean = [f"{each.ratio:.2f}" if each.ratio is not None else ""] if compared else []
        size = f"{each.bytes / 1e6:.3g} MB" if each.bytes is not None else ""
        reason = each.reason if len(each.reason) <= MOST_REASON else f"{each.reason[:MOST_REASON]}…"
        cells = (*mean, *times, *[""] * (len(raced) - len(times)))
        rows.append((each.outcome, f"{each.target} {each.precision}{options}", size, *cells, reason))
    yield from table_lines(heads, rows)
    if compared:
        base = "the float32 engine" if floats else "the first engine"
        yield f"In brackets: the latency over that of {base}, in turns; mean: geometric, {_weights(raced)}."


def _weights(raced: Sequence[ShapeTime]) -> str:
    more = [f"{each.shape} counts {each.weight} times" for each in raced if each.weight > 1]
    return " and ".join(more) or "all shapes alike"
