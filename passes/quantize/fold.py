"""Turns the constants in front of Q/DQ pairs into integers, which is what ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from enginery.passes.quantize.grid import Grid
from enginery.passes.quantize.pairs import grid_of
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def fold(graph: Any, policy: Policy) -> int:
    """Store quantized weights as integers, and biases too where the policy says so. Returns the number of constants."""
    folded = fold_weights(graph)
    if policy.bias == "int32":
        for node in list(graph.nodes):
            rule = policy.compute.get(node.op)
            if rule is not None and rule.bias is not None:
                folded += _fold_bias(graph, node, rule.bias)
        graph.toposort()
    return folded


def fold_weights(graph: Any) -> int:
    """Store quantized weights as integers. Returns their number."""
    import onnx_graphsurgeon as gs

    folded = 0
    for node in list(graph.nodes):
        if node.op == "QuantizeLinear" and isinstance(node.inputs[0], gs.Constant):
            _fold_weight(node)
            folded += 1
    graph.nodes = [node for node in graph.nodes if node.outputs]
    return folded


def _fold_weight(node: gs.Node) -> None:
    import onnx_graphsurgeon as gs

    constant: Any = node.inputs[0]
    grid = grid_of(node)
    integers = grid.quantize(values(constant)).astype(grid.dtype)
    replacement = gs.Constant(node.outputs[0].name, integers)
    for user in list(node.outputs[0].outputs):
        user.inputs[0] = replacement
    node.inputs.clear()
    node.outputs.clear()


def _fold_bias(graph: Any, node: gs.Node, index: int) -> int:
    """Store a bias as int32 with the scale that integer kernels need: data scale times weight scale."""
    import onnx_graphsurgeon as gs

    if len(node.inputs) <= index or not isinstance(node.inputs[index], gs.Constant):
        return 0
    feeders = [tensor.inputs[0] if tensor.inputs else None for tensor in node.inputs[:2]]
    if any(feeder is None or feeder.op != "DequantizeLinear" for feeder in feeders):
        return 0
    constant: Any = node.inputs[index]
    scale = bias_scale(*(grid_of(feeder) for feeder in feeders if feeder is not None))
    bias = values(constant).astype(np.float64)
    integers = np.clip(np.rint(bias / scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    name = f"{node.outputs[0].name}/bias"
    output = gs.Variable(f"{name}/dequantized", constant.dtype, constant.shape)
    inputs = [gs.Constant(f"{name}/quantized", integers), gs.Constant(f"{name}/scale", scale.astype(np.float32))]
    inputs.append(gs.Constant(f"{name}/zero_point", np.zeros(scale.shape, np.int32)))
    attrs = {"axis": 0} if scale.ndim else {}
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/DequantizeLinear", attrs, inputs, [output]))
    node.inputs[index] = output
    return 1


def bias_scale(data: Grid, weight: Grid) -> npt.NDArray[np.float64]:
    """The scale of an int32 bias; it has the weight's shape."""
    return (data.scale.astype(np.float64) * weight.scale.astype(np.float64)).astype(np.float32).astype(np.float64)
