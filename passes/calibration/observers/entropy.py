"""Ranges with the least loss of information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from enginery.passes.calibration.histogram import distribution
from enginery.passes.calibration.observers.base import require_histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEAST = 1e-12
"""What Q is where it has no value and P has one."""


@dataclass(frozen=True)
class Entropy:
    """The magnitude whose quantized distribution is closest to the true one by Kullback-Leibler divergence.

    The search of S. Migacz, "8-bit inference with TensorRT" (GTC 2017): magnitudes are put into `bins` linear bins; for
    every threshold, P is the distribution with all outliers added to the last bin, Q the same values merged into
    `levels` groups and spread again over P's occupied bins; the threshold of least KL(P || Q) wins. Unlike a search
    that starts with as many bins as levels, 2048 bins leave something to choose.
    """

    histograms: ClassVar[bool] = True

    bins: int = 2048
    levels: int = 128

    def range(self, tensor: TensorStatistics) -> tuple[float, float]:
        require_histogram(tensor, "entropy")
        values, counts = distribution(tensor.histogram)
        top = float(max(abs(tensor.low), abs(tensor.high)))
        if top == 0:
            return 0.0, 0.0
        histogram = _linear_histogram(np.abs(values), counts.astype(np.float64), top, self.bins)
        thresholds = np.arange(self.levels, self.bins + 1, max(1, self.bins // 512))
        best = int(thresholds[np.argmin(divergences(histogram, thresholds, self.levels))])
        reach = top * best / self.bins
        return max(-reach, tensor.low), min(reach, tensor.high)


def _linear_histogram(magnitudes: Floats, counts: Floats, top: float, bins: int) -> Floats:
    """Counts in `bins` equal bins over (0, top]. A source bin wider than a target bin is spread over those it covers.

    Zeros are left out: they are represented exactly by every threshold, and would hide everything else.
    """
    half, inside = magnitudes / 256, magnitudes > 0
    first = np.clip((magnitudes - half) / top * bins, 0, bins - 1).astype(np.int64)[inside]
    last = np.clip((magnitudes + half) / top * bins, 0, bins - 1).astype(np.int64)[inside]
    widths = last - first + 1
    begins = np.cumsum(widths) - widths
    covered = np.arange(widths.sum()) + np.repeat(first - begins, widths)
    shares = np.repeat(counts[inside] / widths, widths)
    return np.asarray(np.bincount(covered, shares, minlength=bins), np.float64)


def divergences(histogram: Floats, thresholds: Integers, levels: int) -> Floats:
    """KL(P || Q), float64 [thresholds], where `histogram` saturates beyond its first `thresholds` bins.

    Within a group Q is one value, so that the sum over its bins needs their total alone. With running sums a threshold
    costs its groups, not its bins. The bin that takes the outliers is added by itself.
    """
    occupied = histogram > 0
    masses, members, weights = (
        np.concatenate(([0.0], np.cumsum(each)))
        for each in (histogram, occupied, histogram * np.log(histogram, where=occupied, out=np.zeros(len(histogram))))
    )
    every = masses[-1]
    edges = np.column_stack((np.arange(levels) * thresholds[:, None] // levels, thresholds))
    totals, counts = np.diff(masses[edges]), np.diff(members[edges])
    spread = np.divide(totals, counts, where=totals > 0, out=np.ones(totals.shape))
    kept = masses[thresholds]
    last, outliers = histogram[thresholds - 1], every - kept
    with np.errstate(divide="ignore", invalid="ignore"):
        # Sum over all bins but the last of p log(p / q), times the number of values.
        within = weights[thresholds - 1] - (totals * np.log(spread)).sum(axis=1) + last * np.log(spread[:, -1])
        within += (kept - last) * (np.log(kept) - np.log(every))
        q = np.where(last > 0, spread[:, -1] / kept, LEAST)
        end = np.where(last + outliers > 0, (last + outliers) * (np.log((last + outliers) / every) - np.log(q)), 0.0)
    return np.where(kept > 0, (within + end) / every, np.inf)
