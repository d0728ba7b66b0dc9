"""Calibration: one streaming run over real data, kept as statistics that every target's policy reads."""

from enginery.passes.calibration.batches import Batches, random_batches
from enginery.passes.calibration.bind import Bound, bind
from enginery.passes.calibration.collect import collect
from enginery.passes.calibration.digest import graph_digest
from enginery.passes.calibration.observers import Observer, Percentile, make_observer
from enginery.passes.calibration.statistics import Statistics, statistics_folder
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.calibration.tensorrt_cache import export_cache, import_cache

__all__ = [
    "Batches",
    "Bound",
    "Observer",
    "Percentile",
    "Statistics",
    "TensorStatistics",
    "bind",
    "collect",
    "export_cache",
    "graph_digest",
    "import_cache",
    "make_observer",
    "random_batches",
    "statistics_folder",
]
