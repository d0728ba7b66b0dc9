"""Weights in int4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.conformance.grids import (
    INT8,
    Grid,
    as_float,
    consumers,
    grid_of,
    is_dequantize,
    linear,
    real_values,
    scale_dtype,
    spread,
)
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_PRODUCTS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class FourBitWeight(Rule):
    """Weights in int4 that TensorRT refuses.

    1. A zero point other than 0: the parser refuses it.
    2. One scale for the whole weight of a product whose other operand is in int8: the builder stops at an assertion.
       (A scale per channel or per block builds.)
    3. Fixed exactly: the integers less their zero point as int8, or as float where the scales are in blocks.
    """

    name: ClassVar[str] = "int4-weight"
    remedy: ClassVar[str] = "hold the same integers in int8"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not is_dequantize(node) or not is_known(node.inputs[0]) or edits.is_output(node.outputs[0]):
                continue
            grid = grid_of(node)
            if grid is None or onnx.helper.np_dtype_to_tensor_dtype(grid.dtype) != onnx.TensorProto.INT4:
                continue
            reason = None
            if not grid.symmetric:
                reason = "is int4 with a zero point other than 0; TensorRT takes zero point 0 only"
            elif grid.scale.size == 1 and any(_in_integers(user, index) for user, index in consumers(node.outputs[0])):
                reason = (
                    "is int4 with one scale beside an int8 operand; TensorRT takes one per channel or per block there"
                )
            if reason is not None:
                yield Match(label(node), reason, lambda n=node, g=grid: _widen(edits, n, g))


def _in_integers(user: gs.Node, index: int) -> bool:
    if user.op not in _PRODUCTS or index > 1:
        return False
    other = producer(user.inputs[1 - index])
    return other is not None and is_dequantize(other) and not is_known(other.inputs[0])


def _widen(edits: Edits, node: gs.Node, grid: Grid) -> None:
    given, dtype = node.inputs[0], scale_dtype(node)
    assert is_known(given)
    if grid.block:
        new: gs.Tensor = edits.constant(f"{given.name}/float", as_float(real_values(given, grid), dtype))
    else:
        integers = peek(given).astype(np.int16) - spread(grid.zero, grid, given.shape).astype(np.int16)
        constant = edits.constant(f"{given.name}/int8", integers.astype(INT8))
        new = linear(edits, "DequantizeLinear", constant, grid.scale, node, axis=grid.axis, dtype=dtype)
    edits.replace(node.outputs[0], new)
