"""Calibration caches of TensorRT's old INT8 calibrators, in and out.

The format: a first line such as `TRT-8601-EntropyCalibration2`, then `tensor: hex` lines, where the eight hexadecimal
digits are the big-endian float32 of the tensor's scale, the largest magnitude over 127.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from enginery.errors import StatisticsError
from enginery.passes.calibration.digest import graph_digest
from enginery.passes.calibration.histogram import Histogram
from enginery.passes.calibration.observers import Observer
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.calibration.tensor_statistics import TensorStatistics

_HEADER = "TRT-8601-EntropyCalibration2"
_LEVELS = 127


def export_cache(statistics: Statistics, observer: Observer) -> str:
    """The text of a cache with the range that `observer` reads for every finite tensor."""
    lines = [_HEADER]
    for name, tensor in statistics.tensors.items():
        if tensor.finite:
            reach = max(map(abs, observer.range(tensor)))
            lines.append(f"{name}: {struct.pack('>f', reach / _LEVELS).hex()}")
    return "\n".join(lines) + "\n"


def import_cache(cache: Path, model: Path) -> Statistics:
    """Statistics of `model` with the ranges of a cache: symmetric, and without histograms or per-channel figures.

    Raises:
        StatisticsError: the file is no cache, a line is malformed, or no tensor of the model is in it.
    """
    import onnx

    lines = cache.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].startswith("TRT-"):
        raise StatisticsError(f"{cache} is no TensorRT calibration cache: its first line must begin with `TRT-`.")
    reach = dict(_read_line(cache, number, line) for number, line in enumerate(lines[1:], 2) if line.strip())
    graph = onnx.load(model, load_external_data=False).graph
    known = {name for node in graph.node for name in (*node.input, *node.output)}
    if not known & reach.keys():
        raise StatisticsError(
            f"No tensor of {model.name} is among the {len(reach)} of {cache}. TensorRT names tensors as the ONNX file "
            "that it was calibrated with; give that file."
        )
    tensors = {name: _symmetric(reach[name]) for name in sorted(known & reach.keys())}
    return Statistics(graph_digest(model), batches=(), samples=0, tensors=tensors)


def _read_line(cache: Path, number: int, line: str) -> tuple[str, float]:
    name, _, digits = line.rpartition(":")
    try:
        (scale,) = struct.unpack(">f", bytes.fromhex(digits.strip()))
    except (ValueError, struct.error) as error:
        raise StatisticsError(
            f"{cache}, line {number}: given {line!r}, expected `tensor: ` and eight hexadecimal digits."
        ) from error
    if not name or not np.isfinite(scale) or scale < 0:
        raise StatisticsError(f"{cache}, line {number}: scale {scale} of {name!r} is not a finite positive number.")
    return name, scale * _LEVELS


def _symmetric(reach: float) -> TensorStatistics:
    none = np.empty(0)
    return TensorStatistics(
        low=-reach,
        high=reach,
        count=0,
        batches=1,
        low_sum=-reach,
        high_sum=reach,
        axis=0,
        channel_low=none,
        channel_high=none,
        channel_sum=none,
        histogram=Histogram.none(),
        energy=Histogram.none(),
    )
