"""How many of its weights a padded Conv sums at each place of its output: all of them inside, fewer at the border.

An axis at a time: with stride s, dilation d and p zeros in front, tap t of output i reads input i s + t d - p, which
lies inside or is a zero (ONNX operator specification, Conv-11).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Array = npt.NDArray[Any]

LARGEST: Final = 1 << 22
"""Elements of a share that is kept in a model: 16 MB in float32, as the first Conv of a network for photos has."""


def is_padded(conv: gs.Node) -> bool:
    return any(conv.attrs.get("pads", ())) or conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def share_fits(conv: gs.Node, weight: Array) -> bool:
    """Whether the input's spatial shape is known, so that the share is a constant, and not a large one."""
    sizes = _sizes(conv)
    if sizes is None or len(sizes) != weight.ndim - 2:
        return False
    return weight.shape[0] * math.prod(len(taps) for taps in _taps(conv, weight, sizes)) <= LARGEST


def padded_share(conv: gs.Node, weight: Array) -> Array:
    """The sum of the weights that meet the input, for each place of the output: [1, channels, *spatial]."""
    sizes = _sizes(conv)
    assert sizes is not None
    result = weight.sum(axis=1)
    for axis, taps in enumerate(_taps(conv, weight, sizes), start=1):
        result = np.moveaxis(np.tensordot(result, taps, axes=([axis], [1])), -1, axis)
    return result[np.newaxis]


def _sizes(conv: gs.Node) -> list[int] | None:
    shape = conv.inputs[0].shape
    if shape is None or not all(isinstance(size, int) and size > 0 for size in shape[2:]):
        return None
    return [int(size) for size in shape[2:]]


def _taps(conv: gs.Node, weight: Array, sizes: list[int]) -> list[Array]:
    """For each spatial axis a matrix [output, tap]: 1.0 where the tap lies inside, 0.0 where it meets a zero."""
    rank = len(sizes)
    strides = conv.attrs.get("strides") or [1] * rank
    dilations = conv.attrs.get("dilations") or [1] * rank
    pads = conv.attrs.get("pads") or [0] * (2 * rank)
    how = conv.attrs.get("auto_pad", "NOTSET")
    result: list[Array] = []
    for axis, (size, stride, dilation) in enumerate(zip(sizes, strides, dilations, strict=True)):
        offsets = np.arange(weight.shape[2 + axis]) * dilation
        reach = int(offsets[-1]) + 1
        if how.startswith("SAME"):
            count = -(-size // stride)
            both = max((count - 1) * stride + reach - size, 0)
            before = both // 2 if how == "SAME_UPPER" else both - both // 2
        else:
            before = 0 if how == "VALID" else pads[axis]
            both = 0 if how == "VALID" else before + pads[rank + axis]
            count = (size + both - reach) // stride + 1
        places = np.arange(count)[:, np.newaxis] * stride + offsets - before
        result.append(((places >= 0) & (places < size)).astype(np.float64))
    return result
