"""The weight of a compute node: which axis holds its output channels, and which its input channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_TRANSPARENT = ("QuantizeLinear", "DequantizeLinear")


def output_axis(node: gs.Node) -> int:
    """The axis of the weight that counts output channels: Conv 0, MatMul last, Gemm by transB."""
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return len(weight_of(node).shape) - 1


def input_axis(node: gs.Node) -> int:
    """The axis of the weight that counts input channels (of one group)."""
    if node.op in ("Conv", "Gemm"):
        return 1 - output_axis(node)
    return len(weight_of(node).shape) - 2


def weight_of(node: gs.Node) -> gs.Constant:
    """The constant behind input 1, which may stand in front of a Q/DQ pair.

    Raises:
        TypeError: the weight is computed, sparse, or an initializer that callers may override.
    """
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.weights import is_known

    tensor = node.inputs[1]
    while isinstance(tensor, gs.Variable) and tensor.inputs and tensor.inputs[0].op in _TRANSPARENT:
        tensor = tensor.inputs[0].inputs[0]
    if not is_known(tensor):
        raise TypeError(f"the weight of {node.name} is no constant")
    return tensor


def has_constant_weight(node: gs.Node) -> bool:
    """Whether input 1 is a float constant, as it is or behind a Q/DQ pair."""
    try:
        return np.dtype(weight_of(node).dtype).kind == "f"
    except TypeError:
        return False


def groups(node: gs.Node) -> int:
    return int(node.attrs.get("group", 1)) if node.op == "Conv" else 1


def values(constant: gs.Constant) -> npt.NDArray[Any]:
    """The values of a float constant; those on disk are read anew and not kept."""
    from enginery.passes.graph.weights import peek

    return peek(constant)


def constant_at(node: gs.Node, index: int) -> gs.Constant:
    """One input of a node, which the caller knows to be a constant."""
    from enginery.passes.graph.weights import is_known

    tensor = node.inputs[index]
    assert is_known(tensor), f"input {index} of {node.name} is computed"
    return tensor


def replace_constant(node: gs.Node, index: int, array: npt.NDArray[Any], suffix: str) -> None:
    """Give one input of one node a constant of its own, whoever else uses the old one."""
    import onnx_graphsurgeon as gs

    # Named after the node's output, which is unique; the old name may belong to a shared constant.
    node.inputs[index] = gs.Constant(f"{node.outputs[0].name}/{index}/{suffix}", np.ascontiguousarray(array))
