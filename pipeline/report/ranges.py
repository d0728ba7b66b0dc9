"""Statistics as text: the range of each tensor, and how its values are spread over it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from enginery.passes.calibration import Percentile, Statistics, TensorStatistics
from enginery.passes.calibration.histogram import distribution

WIDTH = 32
"""Columns of a drawing, which spans [-reach, reach], zero in the middle."""

BULK = Percentile(99.9)
_HEIGHTS = " ▁▂▃▄▅▆▇█"


def range_lines(statistics: Statistics, most: int) -> Iterator[str]:
    """One line for each tensor, those first whose outliers reach farthest beyond the bulk of their values.

    `outliers` is the largest magnitude over that of the central 99.9 %: what an 8-bit grid wastes on a few values. The
    heights of a drawing are logarithms of counts.
    """
    if not statistics.tensors:
        return
    ranked = sorted(statistics.tensors.items(), key=lambda item: (-outliers(item[1]), item[0]))
    width = max(len(name) for name, _ in ranked[:most])
    yield f"{'tensor':<{width}}  {'low':>10}  {'high':>10}  {'outliers':>8}  from -reach to reach"
    for name, tensor in ranked[:most]:
        far = f"{outliers(tensor):7.1f}x" if tensor.histogram else f"{'-':>8}"
        yield f"{name:<{width}}  {tensor.low:>10.4g}  {tensor.high:>10.4g}  {far}  {drawing(tensor)}"
    if len(ranked) > most:
        yield f"and {len(ranked) - most} more; --json lists them"


def outliers(tensor: TensorStatistics) -> float:
    """The largest magnitude over that of the central 99.9 % of the values; 1 without a histogram."""
    if not tensor.histogram or not tensor.finite:
        return 1.0
    bulk = max(map(abs, BULK.range(tensor)))
    reach = max(abs(tensor.low), abs(tensor.high))
    return reach / bulk if bulk > 0 else 1.0


def drawing(tensor: TensorStatistics) -> str:
    """The distribution over [-reach, reach] in `WIDTH` columns; without a histogram the range alone."""
    reach = max(abs(tensor.low), abs(tensor.high))
    if not tensor.finite or reach == 0:
        return "not finite" if not tensor.finite else "always zero"
    if not tensor.histogram:
        first, last = (_column(np.array([end]), reach)[0] for end in (tensor.low, tensor.high))
        return "|" + "".join("-" if first <= column <= last else " " for column in range(WIDTH)) + "|"
    values, counts = distribution(tensor.histogram)
    columns = np.bincount(_column(values, reach), weights=counts, minlength=WIDTH)
    heights = np.ceil((len(_HEIGHTS) - 1) * np.log1p(columns) / np.log1p(columns.max())).astype(int)
    return "|" + "".join(_HEIGHTS[height] for height in heights) + "|"


def _column(values: np.ndarray, reach: float) -> np.ndarray:
    return np.clip((values / reach + 1) / 2 * WIDTH, 0, WIDTH - 1).astype(np.int64)
