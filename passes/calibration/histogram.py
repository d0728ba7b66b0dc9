"""A histogram whose bins are fixed by the float format itself.

A float32 is put into the bin named by its upper 16 bits: sign, exponent and 7 bits of mantissa, the bfloat16 that it
truncates to. The 65,536 bins cover every float with a relative width of 1/128, need no range to be known beforehand,
and are the same for every batch, so that histograms add up exactly, in any order, in one pass over the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 1 << 16

Counts = npt.NDArray[np.int64]


def count_values(values: npt.NDArray[Any]) -> Counts:
    """Counts by bin, int64 [65536], of float values of any shape (converted to float32)."""
    flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
    return np.bincount(flat.view("<u2")[1::2], minlength=BINS)


def bin_edges(bins: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The bounds (inner, outer) of each bin; outer is the one farther from zero. Both float64, shaped like `bins`."""
    bits = bins.astype(np.uint32) << np.uint32(16)
    inner = bits.view(np.float32).astype(np.float64)
    outer = (bits | np.uint32(0xFFFF)).view(np.float32).astype(np.float64)
    return inner, outer


def distribution(counts: Counts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The occupied bins as (centre, count), ascending by value. Bins of infinity and NaN are left out."""
    bins = np.flatnonzero(counts)
    inner, outer = bin_edges(bins)
    kept = np.isfinite(inner) & np.isfinite(outer)
    centre, weight = ((inner + outer) / 2)[kept], counts[bins][kept]
    centre[np.isin(bins[kept], (0, BINS // 2))] = 0.0  # zero itself shares its bin with denormals only
    order = np.argsort(centre, kind="stable")
    return centre[order], weight[order]
