"""Reading and editing the Q/DQ pairs that stand behind weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from enginery.passes.quantize.grid import Grid
from enginery.passes.quantize.weights import has_constant_weight, replace_constant, values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def grid_of(node: gs.Node) -> Grid:
    """The grid of a QuantizeLinear or DequantizeLinear node."""
    scale, zero = (values(cast("Any", tensor)) for tensor in node.inputs[1:3])
    axis = node.attrs.get("axis", 1) if scale.ndim else None
    return Grid(scale, zero.astype(np.int64), zero.dtype.name, axis)


def has_weight_pair(node: gs.Node) -> bool:
    """Whether the node is a compute node whose float weight stands in front of a Q/DQ pair."""
    if node.op not in ("Conv", "MatMul", "Gemm") or not has_constant_weight(node):
        return False
    weight = node.inputs[1]
    return bool(weight.inputs) and weight.inputs[0].op == "DequantizeLinear" and bool(weight.inputs[0].inputs[0].inputs)


def weight_pair(node: gs.Node) -> gs.Node:
    """The QuantizeLinear node behind the node's weight."""
    return node.inputs[1].inputs[0].inputs[0].inputs[0]


def constant_bias(node: gs.Node) -> gs.Constant | None:
    """The bias of a Conv or Gemm, if it has one that is constant and float."""
    from enginery.passes.graph.weights import is_known

    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias if bias is not None and is_known(bias) else None


def correct_bias(node: gs.Node, exact: gs.Node, shift: npt.NDArray[np.float64]) -> None:
    """Set the node's bias to that of its float twin `exact` plus `shift`, one number per output channel."""
    bias = constant_bias(exact)
    assert bias is not None
    array = values(bias)
    replace_constant(node, 2, (array + shift).astype(array.dtype), "corrected")


def replace_weight(pair: gs.Node, array: npt.NDArray[Any]) -> None:
    """Give a QuantizeLinear node another constant to quantize."""
    import onnx_graphsurgeon as gs

    pair.inputs[0] = gs.Constant(f"{pair.outputs[0].name}/rounded", np.ascontiguousarray(array))


def replace_scale(node: gs.Node, scale: npt.NDArray[Any]) -> None:
    """Give both ends of the Q/DQ pair behind the node's weight another scale."""
    import onnx_graphsurgeon as gs

    pair = weight_pair(node)
    constant = gs.Constant(f"{pair.outputs[0].name}/clipped_scale", np.asarray(scale))
    for end in (pair, node.inputs[1].inputs[0]):
        end.inputs[1] = constant
