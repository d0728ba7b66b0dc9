"""Quantization grids: scale and zero point, and the arithmetic of QuantizeLinear (ONNX operator specification)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}


@dataclass(frozen=True)
class Grid:
    """An affine integer grid: real = (integer - zero_point) * scale.

    `scale` and `zero_point` are scalars, or 1-D with one entry per index of `axis`.
    """

    scale: Floats
    zero_point: npt.NDArray[np.int64]
    dtype: str
    axis: int | None = None

    def quantize(self, values: Floats) -> npt.NDArray[np.int64]:
        """Nearest grid points as integers (ties to even), saturated."""
        return self._nearest(values).astype(np.int64)

    def round_trip(self, values: Floats) -> Floats:
        """The values as the grid represents them, float64."""
        scale, zero = (self._spread(part, values.ndim) for part in (self.scale, self.zero_point))
        return (self._nearest(values) - zero) * scale

    def _nearest(self, values: Floats) -> Floats:
        scale, zero = (self._spread(part, values.ndim) for part in (self.scale, self.zero_point))
        low, high = LIMITS[self.dtype]
        return np.clip(np.rint(values / scale) + zero, low, high)

    def _spread(self, part: npt.NDArray[Any], rank: int) -> npt.NDArray[Any]:
        if self.axis is None:
            return part
        shape = [1] * rank
        shape[self.axis] = -1
        return part.reshape(shape)


def activation_grid(low: float, high: float, dtype: str, *, symmetric: bool) -> Grid:
    """The 8-bit grid that covers [low, high] and zero. Symmetric means zero point 0 and the range -127..127."""
    low, high = min(low, 0.0), max(high, 0.0)
    least, most = LIMITS[dtype]
    if symmetric:
        scale, zero = max(-low, high) / most, 0
    else:
        scale = (high - low) / (most - least)
        zero = int(np.clip(np.rint(least - low / scale), least, most)) if scale > 0 else 0
    # A tensor that was zero throughout, or next to it, still needs a valid scale: runtimes refuse 0.
    scale, zero = (scale, zero) if scale > np.finfo(np.float32).tiny else (1.0, 0)
    return Grid(np.asarray(np.float32(scale)), np.asarray(zero, np.int64), dtype)


def weight_grid(weight: Floats, axis: int | None, dtype: str = "int8") -> Grid:
    """The symmetric grid of a weight, per index of `axis` or for the whole tensor (None)."""
    rest = tuple(index for index in range(weight.ndim) if index != axis) if axis is not None else None
    reach = np.abs(weight).max(axis=rest).astype(np.float64)
    scale = reach / LIMITS[dtype][1]
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    return Grid(scale, np.zeros(scale.shape, np.int64), dtype, axis)
