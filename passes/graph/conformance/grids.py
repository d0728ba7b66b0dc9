"""What a QuantizeLinear or DequantizeLinear node says: integer type, scales, zero points, axis.

real = (q - zero_point) * scale, with one scale and zero point for the tensor or one for each index along `axis`
(ONNX operator specification, QuantizeLinear-21).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from enginery.passes.graph.edit import producer
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

Array = npt.NDArray[Any]

MOVES: Final = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "Identity", "Expand", "Tile",
     "DepthToSpace", "SpaceToDepth", "Gather", "GatherElements", "GatherND", "Split", "Concat"}
)  # fmt: skip
"""Operators whose output holds values of their first input, in the same integers."""

INT8: Final = np.dtype(np.int8)


def moved(node: gs.Node) -> list[gs.Tensor]:
    """The outputs of a node in `MOVES` that hold the integers of its input: all of Split, and else the first."""
    return list(node.outputs) if node.op == "Split" else list(node.outputs[:1])


_DOMAINS: Final = {None, "", "ai.onnx", "com.microsoft"}


@dataclass(frozen=True)
class Grid:
    """`explicit` is False where the zero point is left out, which means zero, of type uint8 for QuantizeLinear."""

    dtype: np.dtype[Any]
    scale: Array
    zero: Array
    axis: int
    block: int
    explicit: bool

    @property
    def limits(self) -> tuple[int, int]:
        info = onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        four = {onnx.TensorProto.UINT4: (0, 15), onnx.TensorProto.INT4: (-8, 7)}
        if info in four:
            return four[info]
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    @property
    def symmetric(self) -> bool:
        return not np.any(self.zero)


def is_quantize(node: gs.Node) -> bool:
    return node.op == "QuantizeLinear" and node.domain in _DOMAINS


def is_dequantize(node: gs.Node) -> bool:
    return node.op == "DequantizeLinear" and node.domain in _DOMAINS


def grid_of(node: gs.Node) -> Grid | None:
    """The grid of a Q or DQ node; None when its scale or zero point is computed, or its type is not known."""
    scale = node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if not is_known(scale) or (zero is not None and not is_known(zero)):
        return None
    dtype = numpy_dtype(zero) if zero is not None else _implied_dtype(node)
    if dtype is None:
        return None
    values = peek(scale).astype(np.float64)
    zeros = peek(zero).astype(np.int64) if zero is not None else np.zeros(values.shape, np.int64)
    return Grid(dtype, values, zeros, node.attrs.get("axis", 1), node.attrs.get("block_size", 0), zero is not None)


def _implied_dtype(node: gs.Node) -> np.dtype[Any] | None:
    if is_quantize(node):
        code = node.attrs.get("output_dtype", 0)
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)) if code else np.dtype(np.uint8)
    source = origin(node.inputs[0])
    if isinstance(source, np.dtype):
        return source
    return (
        None if source is None else _implied_dtype(source) if len(source.inputs) < 3 else numpy_dtype(source.inputs[2])
    )


def origin(tensor: gs.Tensor) -> gs.Node | np.dtype[Any] | None:
    """Where the integers of a tensor come from: a QuantizeLinear node, or else the dtype of an input or constant."""
    for _ in range(100):
        maker = producer(tensor)
        if maker is None or not (maker.op in MOVES or is_quantize(maker)):
            return None if tensor.dtype is None else numpy_dtype(tensor)
        if is_quantize(maker):
            return maker
        tensor = maker.inputs[0]
    return None


def spread(values: Array, grid: Grid, shape: tuple[int, ...]) -> Array:
    """Scales or zero points, shaped so that they broadcast against a tensor of the given shape."""
    if values.size == 1:
        return values.reshape(())
    if grid.block:
        return np.repeat(values, grid.block, axis=grid.axis)[tuple(slice(0, size) for size in shape)]
    target = [1] * len(shape)
    target[grid.axis] = -1
    return values.reshape(target)


def real_values(constant: gs.Constant, grid: Grid) -> Array:
    """The float64 values that a DQ node makes of a quantized constant."""
    integers = peek(constant).astype(np.float64)
    return (integers - spread(grid.zero, grid, integers.shape)) * spread(grid.scale, grid, integers.shape)


def as_float(values: Array, dtype: np.dtype[Any]) -> Array:
    """Real values in a float type, kept finite: a mask of the lowest float32 may leave its range by rounding."""
    limits = np.finfo(dtype)
    return np.clip(values, float(limits.min), float(limits.max)).astype(dtype)


def symmetric_scale(grid: Grid) -> Array:
    """The smallest scales of a symmetric int8 grid that covers the same real range: [-128 s, 127 s].

    From uint8 with zero point 128 this is the old scale, and nothing is lost. From zero point 0 it is twice as coarse.
    """
    low, high = grid.limits
    return np.maximum((grid.zero - low) / 128, (high - grid.zero) / 127) * grid.scale


def requantize(values: Array, axis: int | None) -> tuple[Array, Array]:
    """Symmetric int8 of real values, with one scale per index of `axis` (None: one for all), as (integers, scales)."""
    others = tuple(index for index in range(values.ndim) if index != axis) if axis is not None else None
    peak = np.abs(values).max(axis=others, initial=0.0)
    scale = np.where(peak > 0, peak / 127, 1.0)
    shape = [1] * values.ndim
    if axis is not None:
        shape[axis] = -1
    integers = np.clip(np.rint(values / (scale.reshape(shape) if axis is not None else scale)), -127, 127)
    return integers.astype(np.int8), np.asarray(scale)


def linear(
    edits: Edits, op: str, source: gs.Tensor, scale: Array, at: gs.Node, *, axis: int = 1, dtype: Any = np.float32
) -> gs.Tensor:
    """Add a symmetric int8 Q or DQ node on `source`; `dtype` is the float type of the scales."""
    name = at.name or at.op
    inputs = [
        source,
        edits.constant(f"{name}/scale", scale.astype(dtype)),
        edits.constant(f"{name}/zero_point", np.zeros(scale.shape, np.int8)),
    ]
    attrs = {"axis": axis} if scale.ndim else {}
    result = edits.node(op, inputs, at=at, like=at.outputs[0], name=f"{name}/symmetric", attrs=attrs)
    result.dtype = INT8 if op == "QuantizeLinear" else np.dtype(dtype)
    return result


def scale_dtype(node: gs.Node) -> np.dtype[Any]:
    return numpy_dtype(node.inputs[1])


def consumers(tensor: gs.Tensor) -> Iterator[tuple[gs.Node, int]]:
    """The nodes that read a tensor, with the index of the input."""
    for node in {id(node): node for node in tensor.outputs}.values():
        for index, given in enumerate(node.inputs):
            if given is tensor:
                yield node, index
