"""A histogram whose bins are fixed by the float format itself.

A float32 is put into the bin named by its upper 16 bits: sign, exponent and 7 bits of mantissa, the bfloat16 that it
truncates to. The 65,536 bins cover every float with a relative width of 1/128, need no range to be known beforehand,
and are the same for every batch, so that histograms add up exactly, in any order, in one pass over the data.

A tensor occupies a few thousand of them: only these are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

BINS = 1 << 16

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Occupied bins, uint16 [n] ascending, and their counts, int64 [n]. Falsy where nothing was recorded."""

    bins: npt.NDArray[np.uint16]
    counts: Counts

    @classmethod
    def none(cls) -> Self:
        """The histogram that was not recorded."""
        return cls(np.empty(0, np.uint16), np.empty(0, np.int64))

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """From the counts of all bins, int64 [65536]."""
        bins = np.flatnonzero(counts)
        return cls(bins.astype(np.uint16), counts[bins])

    def __bool__(self) -> bool:
        return bool(self.bins.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return np.array_equal(self.bins, other.bins) and np.array_equal(self.counts, other.counts)

    def merge(self, other: Histogram) -> Histogram:
        """Both together; nothing where one of them was not recorded."""
        if not self or not other:
            return Histogram.none()
        counts = np.zeros(BINS, np.int64)
        counts[self.bins] = self.counts
        counts[other.bins] += other.counts
        return Histogram.of(counts)

    def rectified(self) -> Histogram:
        """That of the same values with zero in place of the negative ones, as Relu gives them."""
        if not self:
            return self
        negative = self.bins >= BINS // 2
        counts = np.zeros(BINS, np.int64)
        counts[self.bins[~negative]] = self.counts[~negative]
        counts[0] += self.counts[negative].sum()
        return Histogram.of(counts)

    def within(self, low: float, high: float) -> Histogram:
        """Without the bins that lie outside of low to high altogether."""
        inner, _ = bin_edges(self.bins)
        kept = (inner >= low) & (inner <= high)
        return Histogram(self.bins[kept], self.counts[kept])


def count_values(values: npt.NDArray[Any]) -> Counts:
    """Counts by bin, int64 [65536], of float values of any shape (converted to float32)."""
    flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    return np.bincount(flat.view("<u2")[1::2], minlength=BINS)


def bin_edges(bins: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The bounds (inner, outer) of each bin; outer is the one farther from zero. Both float64, shaped like `bins`."""
    bits = bins.astype(np.uint32) << np.uint32(16)
    with np.errstate(invalid="ignore"):  # the outer bound of infinity's bin is NaN
        inner = bits.view(np.float32).astype(np.float64)
        outer = (bits | np.uint32(0xFFFF)).view(np.float32).astype(np.float64)
    return inner, outer


def distribution(histogram: Histogram) -> tuple[npt.NDArray[np.float64], Counts]:
    """The occupied bins as (centre, count), ascending by value. Bins of infinity and NaN are left out."""
    inner, outer = bin_edges(histogram.bins)
    kept = np.isfinite(inner) & np.isfinite(outer)
    centre, weight = ((inner + outer) / 2)[kept], histogram.counts[kept]
    centre[np.isin(histogram.bins[kept], (0, BINS // 2))] = 0.0  # zero itself shares its bin with denormals only
    order = np.argsort(centre, kind="stable")
    return centre[order], weight[order]
