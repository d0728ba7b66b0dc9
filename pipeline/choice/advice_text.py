"""Advice about precision, and what a search found, as text: a table, the reasons, and a recipe's lines to copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enginery.passes.quantize import Sensitivity
    from enginery.pipeline.choice.advise import Advice
    from enginery.pipeline.choice.search import Found, Tried
    from enginery.pipeline.recipe import Precision

MOST_REASON = 150
"""Characters of a reason in a table; --json has the whole."""

WORTH = 1.0
"""dB that a node has to gain to be proposed for float: less is within what other samples would show."""

MOST_NODES = 3
"""Nodes that are proposed; what more of them cost in latency, a search has to measure."""


def advice_lines(advice: Advice) -> Iterator[str]:
    """The lines that `enginery quantize --advise` prints."""
    size = advice.rows[0].size or 1
    heads = ("precision", "gates", "metric lost", "cosine", "worst", "SNR dB", "size", "latency")
    table = [
        (
            row.name, row.outcome, _figure(row.lost, ".4g"), _figure(row.cosine, ".5f"), _figure(row.worst, ".5f"),
            _figure(row.snr, ".1f"), _figure(row.size and row.size / size, ".2f"), _figure(row.ratio, ".2f"),
        )
        for row in advice.rows
    ]  # fmt: skip
    yield f"{advice.target}; size and latency are ratios to fp32's, metric and cosine are on the evaluation data."
    yield ""
    yield from table_lines(heads, table)
    for row in advice.rows:
        if row.reason:
            yield f"{row.name}: {row.reason[:MOST_REASON]}"
    yield ""
    yield f"Take {advice.take.name}: {advice.why}."
    yield ""
    yield from recipe_lines(advice.take.precision)


def found_lines(found: Found) -> Iterator[str]:
    """The lines that `enginery quantize --target-metric-drop` prints."""
    yield (
        f"{found.target}: the original scores {found.original:.5g}; {found.allowed:.3g} of it may be lost. "
        f"{len(found.tried)} engines were built and compared."
    )
    yield ""
    yield from table_lines(
        ("in float", "metric lost", "latency", "verdict"), [_tried(each, found) for each in found.tried]
    )
    yield ""
    kept = f"{len(found.chosen.floating)} of {found.nodes} nodes in float" if found.chosen.floating else "all in int8"
    speed = f", {found.chosen.ratio:.2f} of fp32's latency" if found.chosen.ratio is not None else ""
    yield f"Take {kept}{speed}:"
    yield ""
    yield from recipe_lines(found.precision)


def sensitivity_lines(target: str, found: Sensitivity, precision: Precision) -> Iterator[str]:
    """The lines that `enginery quantize --sensitivity` prints: a table, and the recipe's lines for what gains most."""
    from enginery.passes.quantize import pattern_of

    yield (
        f"{target}: with all nodes in int8 the outputs are at {found.all_quantized:.1f} dB (median SNR of samples, "
        "before remedies); with this one alone, and with all but this one:"
    )
    yield ""
    yield from table_lines(
        ("node", "alone dB", "without dB", "gains"),
        [
            (each.node, f"{each.alone:.1f}", f"{each.without:.1f}", f"{each.without - found.all_quantized:+.1f}")
            for each in found.nodes
        ],
    )
    worth = [each.node for each in found.nodes if each.without >= found.all_quantized + WORTH][:MOST_NODES]
    yield ""
    if not worth:
        yield f"No node gains {WORTH:g} dB by staying in float."
        return
    yield "To keep those in float that gain most:"
    yield ""
    yield from recipe_lines(
        precision.model_copy(update={"keep_float": (*precision.keep_float, *map(pattern_of, worth))})
    )


def recipe_lines(precision: Precision) -> Iterator[str]:
    """The precision as a recipe says it."""
    import yaml

    text = yaml.safe_dump(
        {"precision": precision.model_dump(mode="json", exclude_defaults=True) or {"mode": "fp32"}},
        sort_keys=False, allow_unicode=True, width=10_000,
    )  # fmt: skip
    yield from text.rstrip().splitlines()


def _tried(each: Tried, found: Found) -> tuple[str, ...]:
    verdict = each.refusal[:MOST_REASON] if each.refusal is not None else "passed"
    if each.floating == found.chosen.floating:
        verdict = "taken"
    return str(len(each.floating)), _figure(each.lost, ".4g"), _figure(each.ratio, ".2f"), verdict


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows under their heads, in columns as wide as they need."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
