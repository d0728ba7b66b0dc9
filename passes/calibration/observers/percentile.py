"""Ranges that leave a stated share of the values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from enginery.passes.calibration.histogram import distribution
from enginery.passes.calibration.observers.base import require_histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics


@dataclass(frozen=True)
class Percentile:
    """The central `percentile` per cent of the values; half of the rest is cut at each end."""

    histograms: ClassVar[bool] = True

    percentile: float = 99.99

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        require_histogram(tensor, "percentile")
        values, counts = distribution(tensor.histogram)
        cumulative = np.cumsum(counts)
        cut = (1 - self.percentile / 100) / 2 * cumulative[-1]
        low = values[np.searchsorted(cumulative, cut, side="right")]
        high = values[np.searchsorted(cumulative, cumulative[-1] - cut, side="left")]
        # A bin's centre may lie beyond the true extreme.
        return max(float(low), tensor.low), min(float(high), tensor.high)
