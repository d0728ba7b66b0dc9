"""What calibration keeps about one tensor. Memory does not depend on how many values were seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.passes.calibration.histogram import BINS, Histogram, count_values

Vector = npt.NDArray[np.float64]
Block = npt.NDArray[np.float32]

BLOCK = 1 << 20
"""Values that are observed at once: 4 MiB. Smaller blocks, which a core's own cache holds, cost more in calls."""


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
        histogram: Counts by bin of `histogram.py`; none when not recorded.
        energy: The same histogram of each sample's mean square, where a sample is one row (token) of a tensor with
            channels last and one image of a tensor with channels at axis 1; none when not recorded.
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
    histogram: Histogram
    energy: Histogram
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
            histogram=self.histogram.merge(other.histogram),
            energy=self.energy.merge(other.energy),
            finite=self.finite and other.finite,
            masked=self.masked and other.masked,
        )

    def scaled(self, factors: Vector) -> TensorStatistics:
        """The statistics after every channel was multiplied by its factor >= 0, float [C].

        Ranges and sums stay exact. The histogram and the energy cannot be known from per-channel figures: they are
        left out, and an observer that needs them says so.
        """
        low, high = self.channel_low * factors, self.channel_high * factors
        return self._of_channels(low, high, self.channel_sum * factors, self.count)

    def shifted(self, offsets: Vector) -> TensorStatistics:
        """The statistics after an offset, float [C], was added to every channel.

        As with `scaled`, what per-channel figures do not tell is left out.
        """
        low, high = self.channel_low + offsets, self.channel_high + offsets
        return self._of_channels(low, high, self.channel_sum + offsets * self.count / len(offsets), self.count)

    def taken(self, index: npt.NDArray[np.int64]) -> TensorStatistics:
        """The statistics of the tensor whose channels are these of this one, in this order; repeated ones count."""
        count = self.count * len(index) // len(self.channel_low)
        return self._of_channels(self.channel_low[index], self.channel_high[index], self.channel_sum[index], count)

    def _of_channels(self, low: Vector, high: Vector, total: Vector, count: int) -> TensorStatistics:
        least, most = float(low.min()), float(high.max())
        return replace(
            self, low=least, high=most, count=count, low_sum=least * self.batches, high_sum=most * self.batches,
            channel_low=low, channel_high=high, channel_sum=total, histogram=Histogram.none(), energy=Histogram.none(),
        )  # fmt: skip

    def clipped(self, low: float, high: float) -> TensorStatistics:
        """The statistics with a narrower range: `low` and `high` lie inside the one seen. The histogram stays whole."""
        return replace(
            self,
            low=low,
            high=high,
            low_sum=max(self.low_sum, low * self.batches),
            high_sum=min(self.high_sum, high * self.batches),
            channel_low=np.clip(self.channel_low, low, high),
            channel_high=np.clip(self.channel_high, low, high),
        )


def channel_axis(rank: int) -> int:
    """1 for [N, C, H, W] and its like, the last axis otherwise."""
    return 1 if rank >= 4 else max(rank - 1, 0)


def observe(
    array: npt.NDArray[Any],
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    histograms: bool = True,
    known: Histogram | None = None,
) -> TensorStatistics | None:
    """The statistics of one batch of one tensor, or None when it holds no valid value.

    Args:
        array: Float values of any rank.
        mask: Valid positions, broadcastable to the array without its channel axis; None means all.
        histograms: False records ranges only, which is all that `minmax` and `moving-average` read.
        known: The histogram of the values, where another tensor's tells it; it is counted otherwise.
    """
    axis = channel_axis(array.ndim)
    rows = _rows(array.astype(np.float32, copy=False), axis, mask)
    if rows.size == 0:
        return None
    found = _Figures(rows.shape[1], counted=histograms and known is None, energy=histograms)
    for block, samples, channels in _blocks(rows):
        found.add(block, samples, channels)
    low, high = float(found.low.min()), float(found.high.max())
    return TensorStatistics(
        low=low,
        high=high,
        count=rows.size,
        batches=1,
        low_sum=low,
        high_sum=high,
        axis=axis,
        channel_low=found.low,
        channel_high=found.high,
        channel_sum=found.sum,
        histogram=Histogram.of(found.histogram) if known is None else known,
        energy=found.energy(rows) if histograms else Histogram.none(),
        finite=bool(np.isfinite(low) and np.isfinite(high)),
        masked=mask is not None,
    )


class _Figures:
    """Figures by channel and a histogram, added up block by block: each block is read once, while caches hold it."""

    def __init__(self, channels: int, *, counted: bool, energy: bool) -> None:
        self.low = np.full(channels, np.inf)
        self.high = np.full(channels, -np.inf)
        self.sum = np.zeros(channels)
        self.histogram = np.zeros(BINS if counted else 0, np.int64)
        self._energy = energy
        self._squares: list[npt.NDArray[np.float32]] = []
        self._sample = -1

    def add(self, block: Block, samples: slice, channels: slice) -> None:
        """Add `block`, float32 [samples, channels, positions]."""
        self.low[channels] = np.minimum(self.low[channels], _by_channel(np.minimum, block))
        self.high[channels] = np.maximum(self.high[channels], _by_channel(np.maximum, block))
        self.sum[channels] += _channel_sums(block)
        if self.histogram.size:
            self.histogram += count_values(block)
        if self._energy:
            flattened = block.reshape(len(block), -1)
            squares = np.einsum("ij,ij->i", flattened, flattened)
            if samples.start == self._sample:
                self._squares[-1] = self._squares[-1] + squares
            else:
                self._squares.append(squares)
            self._sample = samples.start

    def energy(self, rows: Block) -> Histogram:
        """The histogram of each sample's mean square."""
        means = np.concatenate(self._squares) / np.float32(rows.shape[1] * rows.shape[2])
        return Histogram.of(count_values(means))


def _by_channel(extreme: np.ufunc, block: Block) -> Vector:
    """The extreme of each channel. Positions are contiguous and go first; a row of channels has none to reduce."""
    count, channels, positions = block.shape
    if positions > 1:
        # Twice as fast as a reduction along an axis where a channel has few positions.
        starts = np.arange(0, block.size, positions)
        return extreme.reduce(extreme.reduceat(block.reshape(-1), starts).reshape(count, channels), axis=0)
    return extreme.reduce(block[:, :, 0], axis=0)


def _channel_sums(block: Block) -> Vector:
    """In float32, which is faster; in float64 where that overflows, as on the bias of a mask."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = (block[:, :, 0] if block.shape[2] == 1 else np.einsum("ijk->ij", block)).sum(axis=0)
        return (sums if np.isfinite(sums).all() else block.sum(axis=(0, 2), dtype=np.float64)).astype(np.float64)


def _blocks(rows: Block) -> Iterator[tuple[Block, slice, slice]]:
    """Parts of about `BLOCK` values: several samples, or some channels of one."""
    count, channels, positions = rows.shape
    step = max(1, BLOCK // (channels * positions))
    width = channels if step > 1 else max(1, min(channels, BLOCK // positions))
    for start in range(0, count, step):
        samples = slice(start, min(start + step, count))
        for first in range(0, channels, width):
            part = slice(first, min(first + width, channels))
            yield rows[samples, part], samples, part


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
