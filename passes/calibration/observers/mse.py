"""Ranges with the least mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from enginery.passes.calibration.histogram import distribution
from enginery.passes.calibration.observers.base import require_histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics

_SHRINK = np.concatenate((np.linspace(1.0, 0.3, 71), np.geomspace(0.28, 0.01, 20)))


@dataclass(frozen=True)
class MeanSquareError:
    """The range, shrunk towards zero at either end in turn, whose 8-bit grid reproduces the values best.

    The error of a grid is measured on the histogram's bins: rounding inside the range, saturation outside. The best
    factor for both ends together is searched first, then for each end alone.
    """

    histograms: ClassVar[bool] = True

    levels: int = 256

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        require_histogram(tensor, "mse")
        values, counts = distribution(tensor.histogram)
        weights = counts / counts.sum()
        low, high = min(tensor.low, 0.0), max(tensor.high, 0.0)
        if low == high:
            return low, high

        def error(a: float, b: float) -> float:
            return grid_error(values, weights, low * a, high * b, self.levels)

        both = min(_SHRINK, key=lambda factor: error(factor, factor))
        best_high = min(_SHRINK, key=lambda factor: error(both, factor)) if high > 0 else both
        best_low = min(_SHRINK, key=lambda factor: error(factor, best_high)) if low < 0 else both
        return float(low * best_low), float(high * best_high)


def grid_error(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], low: float, high: float, levels: int
) -> float:
    """Weighted mean squared error of `values` on a grid of `levels` points over [low, high] with a point on zero."""
    scale = (high - low) / (levels - 1)
    zero = np.rint(-low / scale)
    grid = (np.clip(np.rint(values / scale) + zero, 0, levels - 1) - zero) * scale
    return float(weights @ np.square(values - grid))
