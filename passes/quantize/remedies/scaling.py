"""Per-channel scales that move difficulty from activations to weights, with the exponent searched by measurement.

From "SmoothQuant" (Xiao et al. 2022): dividing channel c of an activation by s_c = a_c^alpha / w_c^(1-alpha), and
multiplying the weights that read it, changes nothing in float. a_c is the channel's largest activation, w_c its
largest weight. The same scales equalize convolutions (Nagel et al. 2019, "Data-free quantization") where the layer
before can take the division.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.fidelity import sample_snr
from enginery.passes.quantize.grid import activation_grid, weight_grid
from enginery.passes.quantize.layers import channels_of, matrix_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Floats = npt.NDArray[np.floating[Any]]

ALPHAS = tuple(np.round(np.arange(0.3, 1.001, 0.1), 2).tolist())
"""Tried first; then the best one's neighbours, half a step away."""

COLUMNS = 128
"""About how many output channels of a layer tell what a trial does to all of them."""


@dataclass(frozen=True)
class Scaling:
    """The best scales found for one tensor; they divide its channels. SNRs are of its users' outputs, in dB."""

    alpha: float
    scales: Floats
    before: float
    after: float


@dataclass(frozen=True)
class Scaled:
    """A tensor, the nodes that multiply it with weights, and samples of the rows that each of them multiplies.

    `cap` is the upper bound of the activation function that makes the tensor. `headroom` widens what was seen.
    `outside` are channels of linear layers that a float product multiplies beside the integer one.
    """

    statistics: TensorStatistics
    users: Sequence[gs.Node]
    rows: Sequence[Floats]
    cap: float | None = None
    headroom: float = 1.0
    outside: tuple[int, ...] = ()

    def without(self, channels: Sequence[int]) -> Scaled:
        """The same with these channels taken out of the integer product; the range no longer knows them."""
        kept = np.ones(len(self.statistics.channel_low))
        kept[list(channels)] = 0.0
        return replace(self, statistics=self.statistics.scaled(kept), outside=tuple(channels))

    def reach(self) -> Floats:
        """The largest magnitude to expect by channel, float64 [C].

        The largest one seen is a poor guess for a channel that is rarely active: on other text of the same language
        MiniLM's quiet channels exceed it fivefold. So no channel counts for less than the median one, all get
        `headroom`, and none more than the largest.
        """
        seen = self.statistics.channel_absmax
        return np.minimum(np.maximum(seen, np.median(seen)) * self.headroom, seen.max())

    def expected(self) -> TensorStatistics:
        """The statistics with every channel widened to its `reach`."""
        return self.statistics.scaled(self.reach() / np.maximum(self.statistics.channel_absmax, 1e-30))

    @cached_property
    def matrices(self) -> Sequence[Floats]:
        """The users' weights, read once: they may lie on disk. Rows of channels outside are zero."""
        return [_zeroed(matrix_of(user), self.outside) for user in self.users]

    def columns(self, matrix: Floats) -> Floats:
        """A matrix [G, K, M] with about `COLUMNS` of its output channels, evenly spread."""
        return matrix[:, :, :: max(1, matrix.shape[2] // COLUMNS)]

    @cached_property
    def beside(self) -> Sequence[Floats | float]:
        """What the float product adds to each user's integer one, in the chosen columns."""
        if not self.outside:
            return [0.0] * len(self.users)
        chosen = list(self.outside)
        pairs = zip(self.rows, self.users, strict=True)
        return [_product(rows[:, :, chosen], self.columns(matrix_of(user)[:, chosen])) for rows, user in pairs]

    @cached_property
    def weight_absmax(self) -> Floats:
        """The largest weight by input channel over all users, float64 [C]."""
        reach = np.zeros(len(self.statistics.channel_low))
        for user, matrix in zip(self.users, self.matrices, strict=True):
            np.maximum.at(reach, channels_of(user), np.abs(matrix).max(axis=2))
        return reach

    @cached_property
    def expected_outputs(self) -> Sequence[Floats]:
        """What the users compute from the rows in float in the chosen columns, [N, G, M] each."""
        parts = zip(self.rows, self.matrices, self.beside, strict=True)
        return [_product(rows, self.columns(matrix)) + beside for rows, matrix, beside in parts]


def plain_snr(scaled: Scaled, context: QuantizeContext) -> float:
    """The median SNR of the users' outputs in dB with no scaling at all."""
    return _trial(scaled, np.ones(len(scaled.statistics.channel_low)), context)


def search(scaled: Scaled, context: QuantizeContext, alphas: Sequence[float] = ALPHAS) -> Scaling:
    """Try every alpha on the sampled rows and return the best by the users' median output SNR."""
    before = plain_snr(scaled, context)

    def attempt(alpha: float) -> Scaling:
        scales = scales_for(scaled, alpha)
        return Scaling(alpha, scales, before, _trial(scaled, scales, context))

    coarse = max(map(attempt, alphas), key=lambda trial: trial.after)
    if len(alphas) == 1:
        return coarse
    near = [round(coarse.alpha + step, 2) for step in (-0.05, 0.05)]
    fine = [attempt(alpha) for alpha in near if alpha <= 1]
    return max((coarse, *fine), key=lambda trial: trial.after)


def scales_for(scaled: Scaled, alpha: float) -> Floats:
    """s_c for one alpha, the largest being 1.

    A cap (the 6 of ReLU6) must clip the same values before and after: a channel that reaches it keeps scale 1, the
    others may grow up to it.
    """
    activation = scaled.reach()
    live = (activation > 1e-6 * max(float(activation.max()), 1e-30)) & (scaled.weight_absmax > 0)
    weight = np.maximum(scaled.weight_absmax, 1e-8)
    raw = np.where(live, np.maximum(activation, 1e-30), 1.0) ** alpha / weight ** (1 - alpha)
    scales = np.where(live, raw / raw[live].max() if live.any() else 1.0, 1.0)
    # Beyond this the scaled weights would leave the range of fp16.
    scales = np.maximum(scales, 1e-4)
    if scaled.cap is not None:
        scales = np.maximum(scales, activation / scaled.cap)
        scales = np.where(activation >= scaled.cap * (1 - 1e-6), 1.0, scales)
    return scales


def _trial(scaled: Scaled, scales: Floats, context: QuantizeContext) -> float:
    policy = context.policy
    statistics, observer = scaled.statistics, context.observer
    readable = bool(statistics.histogram) or not observer.histograms
    low, high = observer.range(statistics) if readable and np.all(scales == 1) else _range(scaled, scales)
    grid = activation_grid(low, high, policy.activation, symmetric=policy.symmetric)
    ratios: list[Floats] = []
    for index, user in enumerate(scaled.users):
        factors = scales[channels_of(user)].astype(np.float32)
        data = grid.round_trip(scaled.rows[index] / factors[:, None, :]).astype(np.float32)
        # One scale for all output channels depends on all of them.
        matrix = scaled.columns(scaled.matrices[index]) if policy.per_channel else scaled.matrices[index]
        weight = _round_weight(matrix * factors[:, :, None], per_channel=policy.per_channel)
        weight = weight if policy.per_channel else scaled.columns(weight)
        found = _product(data, weight.astype(np.float32)) + scaled.beside[index]
        ratios.append(sample_snr(scaled.expected_outputs[index], found))
    return float(np.median(np.concatenate(ratios)))


def _zeroed(matrix: Floats, channels: Sequence[int]) -> Floats:
    if not channels:
        return matrix
    kept = matrix.copy()
    kept[:, list(channels)] = 0.0
    return kept


def _product(rows: Floats, matrix: Floats) -> Floats:
    """[G, N, K] x [G, K, M] as [N, G, M]."""
    return (rows @ matrix).transpose(1, 0, 2)


def _range(scaled: Scaled, scales: Floats) -> tuple[float, float]:
    """Min-max: after scaling only ranges are known exactly."""
    statistics = scaled.expected().scaled(1 / scales)
    return statistics.low, statistics.high


def _round_weight(matrix: Floats, *, per_channel: bool) -> Floats:
    if not per_channel:
        return weight_grid(matrix, None).round_trip(matrix)
    by_output = matrix.transpose(0, 2, 1).reshape(-1, matrix.shape[1])
    rounded = weight_grid(by_output, 0).round_trip(by_output)
    return rounded.reshape(matrix.shape[0], matrix.shape[2], -1).transpose(0, 2, 1)
