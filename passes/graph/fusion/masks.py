"""Attention masks: between which bounds their values lie, and the form that attention kernels read."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, nbytes, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

Bounds = tuple[float, float]

UNKNOWN: Bounds = (-math.inf, math.inf)
_LARGEST = 64 << 20  # bytes of a constant that is worth reading
_DEPTH = 24

LOWEST = -1e30
"""What masks hide with here. ONNX Runtime gives 0 for a row in which every score is at most the lowest float, where a
softmax gives the mean; at -1e30 it is a softmax again, and exp() of it is 0 all the same."""


def bounds(tensor: gs.Tensor, depth: int = _DEPTH) -> Bounds:
    """The lowest and highest value that a tensor can hold, by how it is made; infinities where that is not known."""
    if tensor.dtype is not None and numpy_dtype(tensor).kind == "b":
        return 0.0, 1.0
    if is_known(tensor):
        if nbytes(tensor) > _LARGEST or int(np.prod(tensor.shape)) == 0:
            return UNKNOWN
        values = peek(tensor).astype(np.float64)
        return float(values.min()), float(values.max())
    node = producer(tensor)
    rule = _RULES.get(node.op) if node is not None and not node.domain else None
    if node is None or rule is None or depth == 0:
        return UNKNOWN
    return rule([bounds(each, depth - 1) for each in node.inputs if not each.is_empty()])


def _products(parts: list[Bounds]) -> Bounds:
    values = [a * b if a and b else 0.0 for a, b in product(*parts)]
    return min(values), max(values)


def _union(parts: list[Bounds]) -> Bounds:
    return min(low for low, _ in parts), max(high for _, high in parts)


_HANDS_ON = (
    *("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice"),
    *("Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
)
_RULES: dict[str, Callable[[list[Bounds]], Bounds]] = {
    **dict.fromkeys(_HANDS_ON, lambda parts: parts[0]),
    "Trilu": lambda parts: _union([parts[0], (0.0, 0.0)]),
    "Where": lambda parts: _union(parts[1:]),
    "Concat": _union,
    "Add": lambda parts: (parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]),
    "Sub": lambda parts: (parts[0][0] - parts[1][1], parts[0][1] - parts[1][0]),
    "Neg": lambda parts: (-parts[0][1], -parts[0][0]),
    "Mul": _products,
    "Max": lambda parts: (max(low for low, _ in parts), max(high for _, high in parts)),
    "Min": lambda parts: (min(low for low, _ in parts), min(high for _, high in parts)),
    "Sigmoid": lambda _: (0.0, 1.0),
    "Tanh": lambda _: (-1.0, 1.0),
}
"""The bounds of an op's output from those of its inputs."""


def boolean_to_additive(boolean: gs.Tensor, floor: float, *, keeps: bool, at: gs.Node, edits: Edits) -> gs.Tensor:
    """0 where a score is kept and `floor` (but at least LOWEST) where it is hidden, in float32 or as `at` computes."""
    dtype = numpy_dtype(at.outputs[0])
    zero = edits.constant(f"{boolean.name}/kept", np.array(0, dtype))
    hide = edits.constant(f"{boolean.name}/hidden", np.array(_floor(floor, dtype), dtype))
    choices = [zero, hide] if keeps else [hide, zero]
    made = edits.node("Where", [boolean, *choices], at=at, name=f"{boolean.name}/additive")
    made.dtype, made.shape = dtype, boolean.shape
    return made


def raised(mask: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    """The mask with nothing below LOWEST: itself where that is known, else a Where or a Max that sees to it."""
    dtype = numpy_dtype(mask)
    low = np.array(_floor(-math.inf, dtype), dtype)
    if bounds(mask)[0] >= low:
        return mask
    node = producer(mask)
    if node is not None and node.op == "Where" and all(is_known(each) for each in node.inputs[1:]):
        choices = [
            edits.constant(f"{each.name}/raised", np.maximum(peek(each), low))
            for each in node.inputs[1:]
            if is_known(each)
        ]
        return edits.node("Where", [node.inputs[0], *choices], at=at, like=mask, name=f"{label(node)}/raised")
    floor = edits.constant(f"{mask.name}/floor", low)
    return edits.node("Max", [mask, floor], at=at, like=mask, name=f"{mask.name}/raised")


def added(bias: gs.Tensor, mask: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    """The sum of two masks that broadcast against each other."""
    made = edits.node("Add", [bias, mask], at=at, like=bias, name=f"{mask.name}/biased")
    one, other = (list(dims_of(each) or ()) for each in (bias, mask))
    rank = max(len(one), len(other))
    padded = [[1] * (rank - len(dims)) + dims for dims in (one, other)]
    made.shape = [b if a == 1 else a for a, b in zip(*padded, strict=True)]
    return made


def _floor(value: float, dtype: np.dtype[Any]) -> float:
    """The least value to hide with: float16 ends at -65504."""
    return max(value, -6e4 if dtype == np.float16 else LOWEST)


def expanded(
    mask: gs.Tensor, queries: gs.Tensor, keys: gs.Tensor, shapes: ShapeValues, at: gs.Node, edits: Edits
) -> gs.Tensor:
    """The mask over (..., query length, key length); kernels broadcast it over batch and heads, not over lengths."""
    dims, wanted = shapes.dims(mask), [shapes.dims(each) for each in (queries, keys)]
    if dims is not None and list(dims[-2:]) == [each[2] for each in wanted if each is not None]:
        return mask
    sizes = [
        edits.node("Shape", [each], at=at, attrs={"start": 2, "end": 3}, name=f"{each.name}/length")
        for each in (queries, keys)
    ]
    for size in sizes:
        size.dtype, size.shape = np.dtype(np.int64), [1]
    lengths = edits.node("Concat", sizes, at=at, attrs={"axis": 0}, name=f"{label(at)}/lengths")
    lengths.dtype, lengths.shape = np.dtype(np.int64), [2]
    made = edits.node("Expand", [mask, lengths], at=at, name=f"{mask.name}/expanded")
    leading = list(dims_of(mask) or ())[:-2]
    made.dtype = mask.dtype
    made.shape = [*leading, *((dims_of(each) or (None,) * 4)[2] for each in (queries, keys))]
    return made
