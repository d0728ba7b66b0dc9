"""Zero points and unsigned integers: TensorRT quantizes to int8 with zero point 0 and to nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.conformance.grids import (
    INT8,
    MOVES,
    Grid,
    consumers,
    grid_of,
    is_dequantize,
    is_quantize,
    linear,
    origin,
    real_values,
    requantize,
    scale_dtype,
    symmetric_scale,
)
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

UINT8 = np.dtype(np.uint8)


class AsymmetricActivation(Rule):
    """Activations in uint8, or in int8 with a zero point that is not zero.

    1. A QuantizeLinear without zero point makes uint8 in ONNX; TensorRT reads int8 in silence. (Error.)
    2. uint8 with zero point 0 is read as int8 in silence: what lies in the upper half is lost. (Error.)
    3. Any other zero point is refused by the parser. (Error.)
    4. Fixed by the smallest symmetric grid that covers the same range, in the Q node and the DQ nodes behind it.
    5. A uint8 graph input is dequantized by Cast, Sub and Mul, which is exact.
    6. Not fixed: a quantized graph output (its type would change), integers that another operator makes.
    """

    name: ClassVar[str] = "asymmetric-activation"
    remedy: ClassVar[str] = "requantize to symmetric int8 over the same range"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not (is_quantize(node) or (is_dequantize(node) and not is_known(node.inputs[0]))):
                continue
            grid = grid_of(node)
            if grid is None or grid.dtype not in (INT8, UINT8) or (grid.dtype == INT8 and grid.symmetric):
                continue
            yield Match(label(node), _reason(node, grid), self._repair(edits, node, grid))

    def _repair(self, edits: Edits, node: gs.Node, grid: Grid) -> Callable[[], None] | None:
        if is_quantize(node):
            return None if _leaves_as_integers(edits, node) else lambda: _quantize(edits, node, grid)
        source = origin(node.inputs[0])
        if isinstance(source, np.dtype) or source is None:
            given = node.inputs[0]
            return (lambda: _dequantize_input(edits, node, grid)) if edits.is_input(given) else None
        return None if _leaves_as_integers(edits, source) else lambda: _dequantize(edits, node, grid)


class AsymmetricWeight(Rule):
    """Constants in uint8, or in int8 with a zero point that is not zero. The parser refuses both.

    1. uint8 with zero point 128 everywhere: the same integers less 128, exactly.
    2. Otherwise: requantized, with as many scales as before.
    """

    name: ClassVar[str] = "asymmetric-weight"
    remedy: ClassVar[str] = "requantize the constant to symmetric int8"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not is_dequantize(node) or not is_known(node.inputs[0]):
                continue
            grid = grid_of(node)
            if grid is None or grid.dtype not in (INT8, UINT8) or (grid.dtype == INT8 and grid.symmetric) or grid.block:
                continue
            yield Match(label(node), _reason(node, grid), lambda n=node, g=grid: _constant(edits, n, g))


def _reason(node: gs.Node, grid: Grid) -> str:
    if not grid.explicit:
        return "has no zero point, which means uint8; TensorRT takes it for int8 in silence and clips the upper half"
    if grid.dtype == UINT8 and grid.symmetric and not is_known(node.inputs[0]):
        return "is uint8 with zero point 0; TensorRT takes it for int8 in silence and clips the upper half"
    if grid.dtype == UINT8:
        return f"is uint8 with zero point {_shown(grid)}; TensorRT takes int8 with zero point 0 only"
    return f"has zero point {_shown(grid)}; TensorRT takes zero point 0 only"


def _shown(grid: Grid) -> str:
    values = sorted({int(value) for value in grid.zero.reshape(-1)})
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _leaves_as_integers(edits: Edits, node: gs.Node) -> bool:
    """Whether integers of a Q node reach a graph output, or an operator that is neither DQ nor a move."""
    stack = [node.outputs[0]]
    while stack:
        tensor = stack.pop()
        if edits.is_output(tensor):
            return True
        for user, index in consumers(tensor):
            if is_dequantize(user):
                continue
            if user.op not in MOVES or (index != 0 and user.op != "Concat"):
                return True
            stack.extend(user.outputs[:1])
    return False


def _quantize(edits: Edits, node: gs.Node, grid: Grid) -> None:
    scale = symmetric_scale(grid)
    new = linear(edits, "QuantizeLinear", node.inputs[0], scale, node, axis=grid.axis, dtype=scale_dtype(node))
    _retype(node.outputs[0])
    edits.replace(node.outputs[0], new)


def _dequantize(edits: Edits, node: gs.Node, grid: Grid) -> None:
    scale = symmetric_scale(grid)
    new = linear(edits, "DequantizeLinear", node.inputs[0], scale, node, axis=grid.axis, dtype=scale_dtype(node))
    edits.replace(node.outputs[0], new)


def _retype(tensor: gs.Tensor) -> None:
    """Everything that holds the integers of a requantized tensor is int8 from now on."""
    tensor.dtype = INT8
    for user, _ in consumers(tensor):
        if user.op in MOVES and producer(user.outputs[0]) is user:
            _retype(user.outputs[0])


def _dequantize_input(edits: Edits, node: gs.Node, grid: Grid) -> None:
    dtype = scale_dtype(node)
    name = node.name or node.op
    code = {np.dtype(np.float32): 1, np.dtype(np.float16): 10}.get(dtype, 1)
    value = edits.node("Cast", [node.inputs[0]], at=node, like=node.outputs[0], attrs={"to": code})
    for op, constant in (("Sub", grid.zero), ("Mul", grid.scale)):
        operand = edits.constant(f"{name}/{op.lower()}", constant.astype(dtype))
        value = edits.node(op, [value, operand], at=node, like=node.outputs[0])
    edits.replace(node.outputs[0], value)


def _constant(edits: Edits, node: gs.Node, grid: Grid) -> None:
    given = node.inputs[0]
    assert is_known(given)
    if grid.dtype == UINT8 and np.all(grid.zero == 128):
        from enginery.passes.graph.weights import peek

        integers, scale = (peek(given).astype(np.int16) - 128).astype(np.int8), grid.scale
    else:
        values = real_values(given, grid)
        integers, scale = requantize(values, grid.axis % values.ndim if grid.scale.ndim else None)
        scale = scale.reshape(grid.scale.shape)
    constant = edits.constant(f"{given.name}/symmetric", integers)
    new = linear(edits, "DequantizeLinear", constant, scale, node, axis=grid.axis, dtype=scale_dtype(node))
    edits.replace(node.outputs[0], new)
