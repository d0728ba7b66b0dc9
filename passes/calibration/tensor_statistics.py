"""What calibration keeps about one tensor. Memory does not depend on how many values were seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.passes.calibration.histogram import Counts, count_values

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TensorStatistics:
    """What was seen of one float tensor: a value that adds up, so that batches and workers can be merged in any order.

    Attributes:
        low: Smallest value.
        high: Largest value.
        count: Number of values.
        batches: Number of batches.
        low_sum: Sum over the batches of each batch's smallest value (`moving-average` reads it).
        high_sum: The same of the largest value.
        axis: The channel axis: 1 for [N, C, H, W] and its like, the last one otherwise.
        channel_low: Smallest value by channel, float64 [C]. Empty when the channel count varies between batches.
        channel_high: Largest value by channel, float64 [C].
        channel_sum: Sum by channel, float64 [C].
        histogram: Counts by bin of `histogram.py`, int64 [65536]; empty when not recorded.
        energy: The same histogram of each sample's mean square, where a sample is one row (token) of a tensor with
            channels last and one image of a tensor with channels at axis 1; empty when not recorded.
        finite: False once NaN or infinity was seen. Such a tensor cannot be quantized.
        masked: True when padded positions were left out.
    """

    low: float
    high: float
    count: int
    batches: int
    low_sum: float
    high_sum: float
    axis: int
    channel_low: Vector
    channel_high: Vector
    channel_sum: Vector
    histogram: Counts
    energy: Counts
    finite: bool = True
    masked: bool = False

    @property
    def channel_absmax(self) -> Vector:
        """Largest magnitude by channel, float64 [C]."""
        return np.maximum(np.abs(self.channel_low), np.abs(self.channel_high))

    @property
    def channel_mean(self) -> Vector:
        """Mean by channel, float64 [C]."""
        return self.channel_sum * len(self.channel_sum) / self.count

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both sets of batches together."""
        same_channels = len(self.channel_low) == len(other.channel_low)
        none = np.empty(0)
        return TensorStatistics(
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            count=self.count + other.count,
            batches=self.batches + other.batches,
            low_sum=self.low_sum + other.low_sum,
            high_sum=self.high_sum + other.high_sum,
            axis=self.axis,
            channel_low=np.minimum(self.channel_low, other.channel_low) if same_channels else none,
            channel_high=np.maximum(self.channel_high, other.channel_high) if same_channels else none,
            channel_sum=self.channel_sum + other.channel_sum if same_channels else none,
            histogram=_add(self.histogram, other.histogram),
            energy=_add(self.energy, other.energy),
            finite=self.finite and other.finite,
            masked=self.masked and other.masked,
        )

    def scaled(self, factors: Vector) -> TensorStatistics:
        """The statistics after every channel was multiplied by its factor >= 0, float [C].

        Ranges and sums stay exact. The histogram and the energy cannot be known from per-channel figures: they are
        left out, and an observer that needs them says so.
        """
        low, high = self.channel_low * factors, self.channel_high * factors
        none = np.empty(0, np.int64)
        return replace(
            self,
            low=float(low.min()),
            high=float(high.max()),
            low_sum=float(low.min()) * self.batches,
            high_sum=float(high.max()) * self.batches,
            channel_low=low,
            channel_high=high,
            channel_sum=self.channel_sum * factors,
            histogram=none,
            energy=none,
        )


def channel_axis(rank: int) -> int:
    """1 for [N, C, H, W] and its like, the last axis otherwise."""
    return 1 if rank >= 4 else max(rank - 1, 0)


def observe(
    array: npt.NDArray[Any], *, mask: npt.NDArray[np.bool_] | None = None, histograms: bool = True
) -> TensorStatistics | None:
    """The statistics of one batch of one tensor, or None when it holds no valid value.

    Args:
        array: Float values of any rank.
        mask: Valid positions, broadcastable to the array without its channel axis; None means all.
        histograms: False records ranges only, which is all that `minmax` and `moving-average` read.
    """
    axis = channel_axis(array.ndim)
    rows = _rows(array.astype(np.float32, copy=False), axis, mask)
    if rows.size == 0:
        return None
    # [N, C, S]: reduce over S first, which is contiguous, then over N.
    channel_low, channel_high = rows.min(axis=2).min(axis=0), rows.max(axis=2).max(axis=0)
    low, high = float(channel_low.min()), float(channel_high.max())
    none = np.empty(0, np.int64)
    return TensorStatistics(
        low=low,
        high=high,
        count=rows.size,
        batches=1,
        low_sum=low,
        high_sum=high,
        axis=axis,
        channel_low=channel_low.astype(np.float64),
        channel_high=channel_high.astype(np.float64),
        channel_sum=rows.sum(axis=2, dtype=np.float64).sum(axis=0),
        histogram=count_values(rows) if histograms else none,
        energy=count_values(_mean_square(rows)) if histograms else none,
        finite=bool(np.isfinite(low) and np.isfinite(high)),
        masked=mask is not None,
    )


def _rows(array: npt.NDArray[Any], axis: int, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
    """The values as [samples, channels, positions], without the masked ones."""
    if mask is not None:
        channels_last = np.moveaxis(array, axis, -1)
        return channels_last[np.broadcast_to(mask, channels_last.shape[:-1])][:, :, None]
    if array.ndim == 0:
        return array.reshape(1, 1, 1)
    if axis == array.ndim - 1:
        return array.reshape(-1, array.shape[-1], 1)
    return array.reshape(array.shape[0], array.shape[1], -1)


def _mean_square(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    flat = rows.reshape(rows.shape[0], -1)
    return np.einsum("ij,ij->i", flat, flat) / np.float32(flat.shape[1])


def _add(left: Counts, right: Counts) -> Counts:
    return left + right if left.size and right.size else np.empty(0, np.int64)
