"""Observers: how a range is read from a tensor's statistics. Every one reads the same statistics."""

from enginery.passes.calibration.observers.base import Observer
from enginery.passes.calibration.observers.entropy import Entropy
from enginery.passes.calibration.observers.minmax import MinMax, MovingAverage
from enginery.passes.calibration.observers.mse import MeanSquareError
from enginery.passes.calibration.observers.percentile import Percentile
from enginery.passes.calibration.observers.select import OBSERVERS, make_observer

__all__ = [
    "OBSERVERS",
    "Entropy",
    "MeanSquareError",
    "MinMax",
    "MovingAverage",
    "Observer",
    "Percentile",
    "make_observer",
]
