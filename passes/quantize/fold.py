"""Turns the constants in front of Q/DQ pairs into integers, which is what ships."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from enginery.passes.graph.weights import is_known
from enginery.passes.quantize.grid import Grid
from enginery.passes.quantize.pairs import grid_of, has_weight_pair, replace_scale, weight_pair
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import constant_at, output_axis, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MOST_BIAS = 2**30
"""Largest magnitude of an int32 bias: it is the beginning of a sum of products in int32, which needs the other half."""


def fold(graph: Any, policy: Policy) -> int:
    """Store quantized weights as integers, and biases too where the policy says so. Returns the number of constants.

    A channel whose weights are tiny beside its bias, as batch normalization leaves of one that it switched off, gets a
    larger weight scale: the bias, in units of data scale times weight scale, would not fit its integer.
    """
    biased = _biased(graph, policy) if policy.bias == "int32" else []
    for node, index in biased:
        _leave_room(node, index)
    folded = fold_weights(graph)
    for node, index in biased:
        _fold_bias(graph, node, index)
    graph.toposort()
    return folded + len(biased)


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


def _biased(graph: Any, policy: Policy) -> list[tuple[gs.Node, int]]:
    """The nodes with integer data, an integer weight and one constant bias per channel, and which input that is."""
    found: list[tuple[gs.Node, int]] = []
    for node in graph.nodes:
        rule = policy.compute.get(node.op)
        if rule is None or rule.bias is None or len(node.inputs) <= rule.bias or not is_known(node.inputs[rule.bias]):
            continue
        feeders = [tensor.inputs[0].op if tensor.inputs else None for tensor in node.inputs[:2]]
        if feeders == ["DequantizeLinear"] * 2 and has_weight_pair(node) and _by_channel(node, rule.bias) is not None:
            found.append((node, rule.bias))
    return found


def _by_channel(node: gs.Node, index: int) -> npt.NDArray[np.float64] | None:
    """The bias, float64 [channels]; None where it differs between the rows of a Gemm. Gemm broadcasts its bias."""
    bias = values(constant_at(node, index)).astype(np.float64)
    channels = int(weight_of(node).shape[output_axis(node)])
    if bias.size not in (1, channels) or (bias.ndim > 1 and bias.shape[-1] not in (1, channels)):
        return None
    if bias.ndim > 1 and any(size != 1 for size in bias.shape[:-1]):
        return None
    return np.broadcast_to(bias.reshape(-1), (channels,))


def _leave_room(node: gs.Node, index: int) -> None:
    """Raise the scale of the node's weight, which is float still, to where the bias is at most `MOST_BIAS`."""
    bias = _by_channel(node, index)
    assert bias is not None
    data, weight = grid_of(node.inputs[0].inputs[0]), grid_of(weight_pair(node))
    least = np.abs(bias) / (data.scale.astype(np.float64) * MOST_BIAS)
    wanted = np.maximum(weight.scale, least if weight.axis is not None else least.max()).astype(weight.scale.dtype)
    if (wanted > weight.scale).any():
        replace_scale(node, wanted)


def _fold_bias(graph: Any, node: gs.Node, index: int) -> None:
    """Store a bias as int32 with the scale that integer kernels need: data scale times weight scale."""
    import onnx_graphsurgeon as gs

    bias, constant = _by_channel(node, index), constant_at(node, index)
    assert bias is not None
    scale = bias_scale(*(grid_of(tensor.inputs[0]) for tensor in node.inputs[:2]))
    integers = np.clip(np.rint(bias / scale), -MOST_BIAS, MOST_BIAS).astype(np.int32)
    name = f"{node.outputs[0].name}/bias"
    output = gs.Variable(f"{name}/dequantized", constant.dtype, list(bias.shape))
    inputs = [gs.Constant(f"{name}/quantized", integers), gs.Constant(f"{name}/scale", scale.astype(np.float32))]
    inputs.append(gs.Constant(f"{name}/zero_point", np.zeros(scale.shape, np.int32)))
    attrs = {"axis": 0} if scale.ndim else {}
    graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/DequantizeLinear", attrs, inputs, [output]))
    node.inputs[index] = output


def bias_scale(data: Grid, weight: Grid) -> npt.NDArray[np.float64]:
    """The scale of an int32 bias, float64 of float32's precision; it has the shape of the weight's scale."""
    exact = data.scale.astype(np.float64) * weight.scale.astype(np.float64)
    return np.asarray(np.maximum(exact, np.finfo(np.float32).tiny).astype(np.float32), np.float64)
