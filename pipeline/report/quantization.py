"""What the quantize stage found out, for the report: what each remedy gained, and the layers that lost most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from enginery.passes.calibration import Statistics, TensorStatistics
from enginery.pipeline.line import FLOAT_MODES, MODEL, NEEDS_STATISTICS, Line
from enginery.pipeline.recipe import Precision
from enginery.pipeline.report.document import Depth, RemedyEffect
from enginery.pipeline.report.ranges import drawing

WORST: Final = 5
"""Layers whose input's distribution is shown: those with the least SNR."""


def quantize_record(line: Line, target: str, precision: Precision) -> Mapping[str, Any] | None:
    """What the quantize stage wrote about itself; None for float engines."""
    if precision.mode in FLOAT_MODES:
        return None
    return line.quantize(target, precision).json("quantize.json")


def remedies_of(details: Mapping[str, Any]) -> Iterator[RemedyEffect]:
    """Every remedy that was tried, and the first reason of those that changed nothing."""
    for step in details.get("remedies", ()):
        yield RemedyEffect(
            spec=step["remedy"],
            kept=step["kept"],
            changed=step["changed"],
            before=step["before_db"],
            after=step["after_db"],
            worst_before=step["worst_before_db"],
            worst_after=step["worst_after_db"],
            reason=step["refusals"][0] if step["refusals"] and not step["changed"] else "",
        )


def depth_of(line: Line, target: str, precision: Precision, details: Mapping[str, Any]) -> Iterator[Depth]:
    """The SNR along the depth; the worst layers with the distribution of what they read, as calibration saw it."""
    points: Sequence[Mapping[str, Any]] = details.get("depth", ())
    if not points or precision.mode not in NEEDS_STATISTICS:
        return
    worst = {point["node"] for point in sorted(points, key=lambda point: point["snr_db"])[:WORST]}
    reads = _data_inputs(line.optimize(target).path(MODEL))
    tensors = Statistics.load(line.statistics(target, precision).path("statistics")).tensors
    for point in points:
        name = reads.get(point["node"], "") if point["node"] in worst else ""
        seen = tensors.get(name)
        yield Depth(node=point["node"], snr=point["snr_db"], **(_distribution(name, seen) if seen is not None else {}))


def _distribution(name: str, seen: TensorStatistics) -> dict[str, Any]:
    drawn = drawing(seen)
    # Cells of tables lose their blanks.
    columns = drawn.strip("|").replace(" ", "·") if drawn.startswith("|") else drawn
    return {"tensor": name, "low": seen.low, "high": seen.high, "drawing": columns}


def _data_inputs(model: Path) -> dict[str, str]:
    import onnx

    nodes = onnx.load(model, load_external_data=False).graph.node
    return {node.name: node.input[0] for node in nodes if node.name and node.input}
