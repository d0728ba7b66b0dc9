"""Zero points and unsigned integers: TensorRT quantizes to int8 with zero point 0 and to nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

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
    moved,
    origin,
    real_values,
    requantize,
    scale_dtype,
    symmetric_scale,
)
from enginery.passes.graph.conformance.saturation import saturated
from enginery.passes.graph.conformance.shifts import add_shift, is_product, shift_of, takes_shift
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits

UINT8 = np.dtype(np.uint8)


class AsymmetricActivation(Rule):
    """Activations in uint8, or in int8 with a zero point that is not zero.

    1. A QuantizeLinear without zero point makes uint8 in ONNX; TensorRT reads int8 in silence. (Error.)
    2. uint8 with zero point 0 is read as int8 in silence: what lies in the upper half is lost. (Error.)
    3. Any other zero point is refused by the parser. (Error.)
    4. Fixed exactly by a shift: with c = (128 - zero point) * scale, quantize x - c and add c after dequantizing. The
       integers are those of before less 128.
    5. Behind a shifted tensor, a product with a constant weight (MatMul, Gemm, Conv) reads the tensor without c and
       adds c times the weight's sum, so that it stays an integer kernel. At the border of a padded Conv fewer weights
       are summed: the sums are a constant of the output's size. Of a MatMul of two activations the first operand is
       shifted in this way; the columns of the second are summed when the model runs.
    6. A product that admits no such sum (the second operand of two activations, ConvTranspose, a padded Conv of dynamic
       or very large height and width) would run in float behind a shift; its tensor is requantized to the smallest
       symmetric grid over the same range instead, which costs at most one bit. What lay beyond an end of the old grid
       is still clipped there: that may have been a Relu. A grid per channel, behind which everything runs in float, is
       requantized in the same way to one grid for the whole tensor.
    7. A uint8 graph input is dequantized by Cast, Sub and Mul, which is exact.
    8. Not fixed: a quantized graph output (its type would change), integers that another operator makes or a subgraph
       reads, a scale or zero point that is computed, and a shift per channel of a tensor of unknown rank.
    """

    name: ClassVar[str] = "asymmetric-activation"
    remedy: ClassVar[str] = "shift the integers, or requantize to symmetric int8 where a product needs it"

    def matches(self, edits: Edits) -> Iterable[Match]:
        done: set[int] = set()
        for node in edits.graph.nodes:
            grid = _asymmetric(node)
            if grid is None:
                if (reason := _computed(node)) is not None:
                    yield Match(label(node), reason)
                continue
            if is_quantize(node):
                yield Match(label(node), _reason(node, grid), _repair(edits, node, grid, done))
            elif not isinstance(origin(node.inputs[0]), gs.Node):
                repair = (
                    (lambda n=node, g=grid: _dequantize_input(edits, n, g)) if edits.is_input(node.inputs[0]) else None
                )
                yield Match(label(node), _reason(node, grid), repair)


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


def _computed(node: gs.Node) -> str | None:
    """What is wrong with an activation's grid whose scale or zero point is computed; None where nothing is known."""
    if not (is_quantize(node) or is_dequantize(node)) or is_known(node.inputs[0]) or grid_of(node) is not None:
        return None
    zero = node.inputs[2] if len(node.inputs) > 2 and not node.inputs[2].is_empty() else None
    if zero is None:
        implied = is_quantize(node) and not node.attrs.get("output_dtype", 0)
        return "has no zero point, which means uint8; TensorRT takes it for int8 in silence" if implied else None
    if not is_known(zero):
        return "has a zero point that is computed; TensorRT takes zero point 0 only"
    dtype = numpy_dtype(zero)
    if dtype not in (INT8, UINT8) or (dtype == INT8 and not np.any(peek(zero))):
        return None
    return f"is {dtype} with zero point {int(peek(zero).reshape(-1)[0])} and a scale that is computed"


def _asymmetric(node: gs.Node) -> Grid | None:
    """The grid of a Q or DQ node on an activation that is not symmetric int8; None for every other node."""
    if not (is_quantize(node) or (is_dequantize(node) and not is_known(node.inputs[0]))):
        return None
    grid = grid_of(node)
    if grid is None or grid.block or grid.dtype not in (INT8, UINT8):
        return None
    return None if grid.dtype == INT8 and grid.symmetric else grid


def _repair(edits: Edits, node: gs.Node, grid: Grid, done: set[int]) -> Callable[[], None] | None:
    """The repair of a Q node together with every DQ node behind it."""
    ends = _ends(edits, node.outputs[0])
    if ends is None:
        return None
    grids = [_asymmetric(end) for end in ends.nodes]
    if any(each is None or shift_of(each, end) is None for each, end in zip(grids, ends.nodes, strict=True)):
        return None
    if shift_of(grid, node) is None:
        return None
    same = all(each is not None and _equal(each, grid) for each in grids)
    products = any(is_product(user, index) and not takes_shift(user, index) for user, index in ends.users())
    per_channel = grid.scale.size > 1  # runs in float as it is, shifted or not
    change = _requantize if (products or per_channel) and same and not ends.joined else _shift

    def repair() -> None:
        for each, own in ((node, grid), *zip(ends.nodes, grids, strict=True)):
            if id(each) not in done and own is not None:
                done.add(id(each))
                change(edits, each, own)
        _retype(node.outputs[0])

    return repair


@dataclass(frozen=True)
class _Ends:
    """The DQ nodes that read the integers of a Q node; `joined` when other integers join them in a Concat."""

    nodes: tuple[gs.Node, ...]
    joined: bool

    def users(self) -> Iterator[tuple[gs.Node, int]]:
        return (use for node in self.nodes for use in consumers(node.outputs[0]))


def _ends(edits: Edits, start: gs.Tensor) -> _Ends | None:
    """None where the integers reach a graph output, a subgraph, or an operator that is neither DQ nor a move."""
    nodes: dict[int, gs.Node] = {}
    joined = False
    stack = [start]
    while stack:
        tensor = stack.pop()
        if edits.is_output(tensor):
            return None
        for user, index in consumers(tensor):
            if not edits.holds(user):
                return None
            if is_dequantize(user):
                nodes[id(user)] = user
                continue
            joined = joined or user.op == "Concat"
            if user.op not in MOVES or (index != 0 and user.op != "Concat"):
                return None
            stack.extend(moved(user))
    return _Ends(tuple(nodes.values()), joined)


def _equal(one: Grid, other: Grid) -> bool:
    same = one.dtype == other.dtype and np.array_equal(one.scale, other.scale)
    return bool(same and np.array_equal(one.zero, other.zero))


def _requantize(edits: Edits, node: gs.Node, grid: Grid) -> None:
    scale = symmetric_scale(grid).max()
    source = saturated(edits, node, grid, scale) if is_quantize(node) else node.inputs[0]
    new = linear(edits, node.op, source, scale, node, axis=grid.axis, dtype=scale_dtype(node))
    edits.replace(node.outputs[0], new)


def _shift(edits: Edits, node: gs.Node, grid: Grid) -> None:
    shift = shift_of(grid, node)
    assert shift is not None
    dtype = scale_dtype(node)
    moved = bool(np.any(shift))
    source = node.inputs[0]
    offset = edits.constant(f"{label(node)}/shift", shift.astype(dtype))
    if is_quantize(node) and moved:
        source = edits.node("Sub", [source, offset], at=node, like=source)
    new = linear(edits, node.op, source, grid.scale, node, axis=grid.axis, dtype=dtype)
    if is_dequantize(node) and moved:
        for user, index in list(consumers(node.outputs[0])):
            if takes_shift(user, index):
                add_shift(edits, user, new, shift)
        new = edits.node("Add", [new, offset], at=node, like=node.outputs[0])
    edits.replace(node.outputs[0], new)


def _retype(tensor: gs.Tensor) -> None:
    """Everything that holds the integers of a changed tensor is int8 from now on."""
    tensor.dtype = INT8
    for user, _ in consumers(tensor):
        for output in moved(user) if user.op in MOVES else ():
            _retype(output)


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
        integers, scale = (peek(given).astype(np.int16) - 128).astype(np.int8), grid.scale
    else:
        values = real_values(given, grid)
        integers, scale = requantize(values, grid.axis % values.ndim if grid.scale.ndim else None)
        scale = scale.reshape(grid.scale.shape)
    constant = edits.constant(f"{given.name}/symmetric", integers)
    new = linear(edits, "DequantizeLinear", constant, scale, node, axis=grid.axis, dtype=scale_dtype(node))
    edits.replace(node.outputs[0], new)
