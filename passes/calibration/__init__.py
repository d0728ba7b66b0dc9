"""Calibration: one streaming run over real data, kept as statistics that every target's policy reads."""

from enginery.passes.calibration.batches import Batches, random_batches
from enginery.passes.calibration.collect import collect
from enginery.passes.calibration.digest import graph_digest
from enginery.passes.calibration.observers import Observer, make_observer
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.calibration.tensor_statistics import TensorStatistics

__all__ = [
    "Batches",
    "Observer",
    "Statistics",
    "TensorStatistics",
    "collect",
    "graph_digest",
    "make_observer",
    "random_batches",
]
