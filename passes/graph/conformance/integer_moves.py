"""Resize and Pad on integers, which ONNX Runtime's operator-oriented quantizer leaves between its operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_graphsurgeon as gs

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.conformance.grids import INT8, Grid, grid_of, origin, scale_dtype
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits

_VALUE: Final = 2
"""The input of Pad that holds the value to pad with."""


class IntegerMove(Rule):
    """Resize of integers that are not symmetric int8, and Pad of any integers.

    1. TensorRT has no other integers than symmetric int8, and takes no quantized constant such as Pad's value.
    2. Fixed: the integers are dequantized, the operator moves floats, the result is quantized to the same grid. Exact,
       but for Resize with interpolation, which rounds otherwise.
    3. Not fixed: grids that are computed or per channel, a value to pad with that is computed, Pad before opset 11.
    """

    name: ClassVar[str] = "integer-move"
    remedy: ClassVar[str] = "move floats, between a DequantizeLinear and a QuantizeLinear"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if node.op not in ("Resize", "Pad") or node.domain or not node.inputs:
                continue
            maker = origin(node.inputs[0])
            if not isinstance(maker, gs.Node) or (grid := grid_of(maker)) is None:
                continue
            if node.op == "Pad" or grid.dtype != INT8 or not grid.symmetric:
                yield Match(label(node), f"moves {grid.dtype} integers", _repair(edits, node, maker, grid))


def _repair(edits: Edits, node: gs.Node, maker: gs.Node, grid: Grid) -> Callable[[], None] | None:
    if grid.scale.size != 1 or not grid.explicit:
        return None
    rest = list(node.inputs[1:])
    if node.op == "Pad":
        if not rest:
            return None
        given = node.inputs[_VALUE] if len(node.inputs) > _VALUE and not node.inputs[_VALUE].is_empty() else None
        if given is not None and not is_known(given):
            return None
        integer = np.zeros((), np.int64) if given is None else peek(given).astype(np.int64).reshape(())
        value = ((integer - grid.zero.reshape(())) * grid.scale.reshape(())).astype(scale_dtype(maker))
        rest[_VALUE - 1 : _VALUE] = [edits.constant(f"{label(node)}/value", value)]

    def repair() -> None:
        ends = maker.inputs[1:3]
        name = node.name or node.op
        moved = edits.node("DequantizeLinear", [node.inputs[0], *ends], at=node, name=f"{name}/dequantize")
        moved.dtype, moved.shape = scale_dtype(maker), node.inputs[0].shape
        moved = edits.node(node.op, [moved, *rest], at=node, attrs=dict(node.attrs), name=f"{name}/float")
        moved.dtype, moved.shape = scale_dtype(maker), node.outputs[0].shape
        made = edits.node("QuantizeLinear", [moved, *ends], at=node, like=node.outputs[0], name=f"{name}/quantize")
        edits.replace(node.outputs[0], made)

    return repair
