"""Ranges from the extremes of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from enginery.passes.calibration.tensor_statistics import TensorStatistics


@dataclass(frozen=True)
class MinMax:
    """The smallest and largest value seen: nothing saturates on the calibration data."""

    histograms: ClassVar[bool] = False

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        return tensor.low, tensor.high


@dataclass(frozen=True)
class MovingAverage:
    """The mean over the batches of each batch's extremes: one odd batch moves the range little.

    All batches weigh the same, unlike in an exponential average, so that the order of the data does not matter.
    """

    histograms: ClassVar[bool] = False

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        return tensor.low_sum / tensor.batches, tensor.high_sum / tensor.batches
