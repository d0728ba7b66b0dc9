"""Quantized constants where TensorRT wants none: biases, operands of elementwise operators, inputs of moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.conformance.grids import (
    MOVES,
    as_float,
    consumers,
    grid_of,
    is_dequantize,
    is_quantize,
    moved,
    real_values,
    scale_dtype,
)
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, numpy_dtype

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

WEIGHTS: Final = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Gather": (0,)}
"""Inputs that may be a dequantized constant. (An embedding's table is dequantized after the Gather.)"""


class IntegerBias(Rule):
    """A DequantizeLinear of int32, which ONNX Runtime writes for biases. TensorRT dequantizes int8, int4 and fp8 only.

    1. A constant is replaced by its float values, exactly up to float rounding.
    2. Not fixed: an int32 tensor that is computed.
    """

    name: ClassVar[str] = "integer-bias"
    remedy: ClassVar[str] = "keep the bias in float"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if is_dequantize(node) and node.inputs[0].dtype is not None and numpy_dtype(node.inputs[0]) == np.int32:
                repair = _folding(edits, node)
                yield Match(label(node), "dequantizes int32; TensorRT dequantizes int8 only", repair)


class QuantizedOperand(Rule):
    """A dequantized constant that is no weight, such as a quantized operand of Add or Mul.

    1. The builder refuses some ("quantized constant is only allowed before DQ") and gains nothing from the others.
    2. Replaced by its float values.
    3. Kept: weights of Conv, ConvTranspose, Gemm and MatMul, also through moves, and tables of Gather.
    """

    name: ClassVar[str] = "quantized-operand"
    remedy: ClassVar[str] = "keep the constant in float"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not is_dequantize(node) or not is_known(node.inputs[0]) or numpy_dtype(node.inputs[0]) == np.int32:
                continue
            other = next(
                (user for user, index in _users(node.outputs[0]) if index not in WEIGHTS.get(user.op, ())), None
            )
            if other is not None:
                reason = f"is a quantized constant for {other.op} {label(other)!r}; TensorRT takes them as weights only"
                yield Match(label(node), reason, _folding(edits, node))


class BareQuantizedConstant(Rule):
    """An int8 constant that goes into something else than a DequantizeLinear, such as a Gather or Transpose before it.

    1. Fixed where every way from it is moves that end in DQ nodes with one scale: the constant becomes float, and the
       DQ nodes go. All DQ nodes must have the same scale.
    2. Not fixed otherwise.
    """

    name: ClassVar[str] = "bare-quantized-constant"
    remedy: ClassVar[str] = "dequantize the constant before it is moved"

    def matches(self, edits: Edits) -> Iterable[Match]:
        seen: set[int] = set()
        for node in edits.graph.nodes:
            if is_dequantize(node) or is_quantize(node) or node.domain:
                continue
            for index, tensor in enumerate(node.inputs):
                if index or node.op not in MOVES or not is_known(tensor) or id(tensor) in seen:
                    continue
                if numpy_dtype(tensor).name not in ("int8", "uint8"):
                    continue
                seen.add(id(tensor))
                ends = _ends(edits, tensor)
                if ends is None:
                    yield Match(
                        label(node), f"moves the int8 constant {tensor.name!r}, which TensorRT takes before DQ only"
                    )
                elif ends:
                    yield Match(
                        label(node),
                        f"moves the quantized constant {tensor.name!r} before it is dequantized",
                        lambda t=tensor, e=ends: _dequantize_first(edits, t, e),
                    )


def _users(tensor: gs.Tensor) -> Iterable[tuple[gs.Node, int]]:
    """The nodes that compute with a tensor, through nodes that only move it."""
    for user, index in consumers(tensor):
        if user.op in MOVES - {"Gather", "Concat"} and index == 0:
            for output in moved(user):
                yield from _users(output)
        else:
            yield user, index


def _folding(edits: Edits, node: gs.Node) -> Callable[[], None] | None:
    given, grid = node.inputs[0], grid_of(node)
    if not is_known(given) or grid is None or edits.is_output(node.outputs[0]):
        return None

    def fold() -> None:
        values = as_float(real_values(given, grid), scale_dtype(node))
        edits.replace(node.outputs[0], edits.constant(f"{given.name}/float", values))

    return fold


def _ends(edits: Edits, tensor: gs.Tensor) -> list[gs.Node] | None:
    """The DQ nodes at the end of every way of moves from a constant; None where a way ends elsewhere."""
    found: list[gs.Node] = []
    stack = [tensor]
    while stack:
        current = stack.pop()
        if edits.is_output(current):
            return None
        for user, index in consumers(current):
            if is_dequantize(user) and index == 0:
                found.append(user)
            elif user.op in MOVES - {"Concat"} and index == 0:
                stack.extend(moved(user))
            else:
                return None
    grids = [grid_of(node) for node in found]
    first = grids[0] if grids else None
    if first is None or any(
        grid is None or grid.scale.size != 1 or grid.scale != first.scale or np.any(grid.zero != first.zero)
        for grid in grids
    ):
        return None
    return found


def _dequantize_first(edits: Edits, tensor: gs.Tensor, ends: list[gs.Node]) -> None:
    assert is_known(tensor)
    grid = grid_of(ends[0])
    assert grid is not None
    dtype = scale_dtype(ends[0])
    constant = edits.constant(f"{tensor.name}/float", as_float(real_values(tensor, grid), dtype))
    for carrier in _moved(tensor):
        carrier.dtype = dtype
    edits.replace(tensor, constant)
    for end in ends:
        edits.replace(end.outputs[0], end.inputs[0])


def _moved(tensor: gs.Tensor) -> Iterable[gs.Tensor]:
    for user, _ in consumers(tensor):
        for output in moved(user) if user.op in MOVES else ():
            yield output
            yield from _moved(output)
