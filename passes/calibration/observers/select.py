"""Observers by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from enginery.errors import UsageError
from enginery.passes.calibration.observers.base import Observer
from enginery.passes.calibration.observers.entropy import Entropy
from enginery.passes.calibration.observers.minmax import MinMax, MovingAverage
from enginery.passes.calibration.observers.mse import MeanSquareError
from enginery.passes.calibration.observers.percentile import Percentile

OBSERVERS: Mapping[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MeanSquareError,
}


def make_observer(name: str, percentile: float = 99.99) -> Observer:
    """The observer called `name`; `percentile` matters to that one only.

    Raises:
        UsageError: no such observer.
    """
    if name == "percentile":
        return Percentile(percentile)
    if name not in OBSERVERS:
        raise UsageError(f"Unknown observer {name!r}; available: {', '.join(OBSERVERS)}.")
    return OBSERVERS[name]()
