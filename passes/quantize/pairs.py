"""Reading and editing the Q/DQ pairs that stand behind weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from enginery.passes.quantize.grid import Grid
from enginery.passes.quantize.weights import has_constant_weight, replace_constant, values, weight_of

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
    """The bias of a layer, if it has one that is constant and float.

    It is a third input of Conv and Gemm, and what is added to a MatMul's product, one number per output channel.
    """
    held = _held_bias(node)
    return held[2] if held is not None else None


def correct_bias(node: gs.Node, exact: gs.Node, shift: npt.NDArray[np.float64]) -> None:
    """Set the node's bias to that of its float twin `exact` plus `shift`, one number per output channel."""
    bias, held = constant_bias(exact), _held_bias(node)
    assert bias is not None
    assert held is not None
    holder, index, _ = held
    array = values(bias)
    replace_constant(holder, index, (array + shift.reshape(array.shape)).astype(array.dtype), "corrected")


def _held_bias(node: gs.Node) -> tuple[gs.Node, int, gs.Constant] | None:
    """The node that holds a layer's bias, the number of its input, and the bias."""
    from enginery.passes.graph.weights import is_known

    holder, index = node, 2
    if node.op == "MatMul":
        readers = node.outputs[0].outputs
        if len(readers) != 1 or readers[0].op != "Add" or len(weight_of(node).shape) != 2:
            return None
        holder = readers[0]
        index = 0 if holder.inputs[1] is node.outputs[0] else 1
    bias = holder.inputs[index] if len(holder.inputs) > index else None
    if bias is None or not is_known(bias) or (node.op == "MatMul" and not _is_one_per_channel(bias, node)):
        return None
    return holder, index, bias


def _is_one_per_channel(bias: gs.Constant, product: gs.Node) -> bool:
    channels = weight_of(product).shape[1]
    return tuple(bias.shape[-1:]) == (channels,) and int(np.prod(bias.shape)) == channels


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
