"""Ranges with the least loss of information."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginery.passes.calibration.histogram import distribution
from enginery.passes.calibration.observers.base import require_histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entropy:
    """The magnitude whose quantized distribution is closest to the true one by Kullback-Leibler divergence.

    The search of S. Migacz, "8-bit inference with TensorRT" (GTC 2017): magnitudes are put into `bins` linear bins; for
    every threshold, P is the distribution with all outliers added to the last bin, Q the same values merged into
    `levels` groups and spread again over P's occupied bins; the threshold of least KL(P || Q) wins. Unlike a search
    that starts with as many bins as levels, 2048 bins leave something to choose.
    """

    bins: int = 2048
    levels: int = 128

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        require_histogram(tensor, "entropy")
        values, counts = distribution(tensor.histogram)
        top = float(max(abs(tensor.low), abs(tensor.high)))
        if top == 0:
            return 0.0, 0.0
        histogram = _linear_histogram(np.abs(values), counts.astype(np.float64), top, self.bins)
        thresholds = range(self.levels, self.bins + 1, max(1, self.bins // 512))
        best = min(thresholds, key=lambda length: _divergence(histogram, length, self.levels))
        reach = top * best / self.bins
        return max(-reach, tensor.low), min(reach, tensor.high)


def _linear_histogram(magnitudes: Floats, counts: Floats, top: float, bins: int) -> Floats:
    """Counts in `bins` equal bins over (0, top]. A source bin wider than a target bin is spread over those it covers.

    Zeros are left out: they are represented exactly by every threshold, and would hide everything else.
    """
    histogram = np.zeros(bins)
    half = magnitudes / 256
    first = np.clip((magnitudes - half) / top * bins, 0, bins - 1).astype(np.int64)
    last = np.clip((magnitudes + half) / top * bins, 0, bins - 1).astype(np.int64)
    for start, stop, count in zip(first[magnitudes > 0], last[magnitudes > 0], counts[magnitudes > 0], strict=True):
        histogram[start : stop + 1] += count / (stop - start + 1)
    return histogram


def _divergence(histogram: Floats, length: int, levels: int) -> float:
    """KL(P || Q) when magnitudes beyond the first `length` bins saturate."""
    inside = histogram[:length]
    p = inside.copy()
    p[-1] += histogram[length:].sum()
    edges = np.arange(levels) * length // levels
    occupied = (inside > 0).astype(np.float64)
    totals, members = np.add.reduceat(inside, edges), np.add.reduceat(occupied, edges)
    spread = np.divide(totals, members, out=np.zeros(levels), where=members > 0)
    q = np.repeat(spread, np.diff(np.append(edges, length))) * occupied
    if q.sum() == 0:
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    if np.any((p > 0) & (q == 0)):
        q = np.maximum(q, 1e-12)
    seen = p > 0
    return float(p[seen] @ np.log(p[seen] / q[seen]))
