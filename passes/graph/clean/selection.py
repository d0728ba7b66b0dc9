"""Which inputs of a node must be selected, and along which axis, so that its output is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.shapes import Dim

Slots = dict[int, int]
"""Axis by the position of an input."""


def selected_inputs(node: gs.Node, output: gs.Tensor, axis: int) -> Slots | None:
    """The inputs that carry dimension `axis` of `output` into it, each position for itself.

    None where a position of the output depends on other positions, or where that is not known. Inputs that are left
    out are the same for all positions.
    """
    rule = _RULES.get(node.op)
    if rule is None or node.domain or node.outputs[0] is not output or any(not t.is_empty() for t in node.outputs[1:]):
        return None
    dims = dims_of(output)
    return None if dims is None else rule(node, dims, axis)


def _elementwise(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    """Inputs broadcast from the last dimension on."""
    found: Slots = {}
    for slot, tensor in enumerate(node.inputs):
        if tensor.is_empty():
            continue
        given = dims_of(tensor)
        if given is None:
            return None
        along = axis - (len(dims) - len(given))
        if along < 0 or given[along] == 1:
            continue
        if given[along] is None or given[along] != dims[axis]:
            return None  # it may be 1 at run time
        found[slot] = along
    return found or None


def _normalization(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    """The dimensions from `axis` on are normalized together; scale and bias have no others."""
    first = int(node.attrs.get("axis", -1)) % len(dims)
    weights = [dims_of(each) for each in node.inputs[1:] if not each.is_empty()]
    if axis >= first or any(each is None or len(each) > len(dims) - first for each in weights):
        return None
    return {0: axis}


def _softmax(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    """Before opset 13 it ran over all dimensions from `axis` on, and had another default."""
    return {0: axis} if "axis" in node.attrs and axis < int(node.attrs["axis"]) % len(dims) else None


def _product(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    """Rows of the first factor; with a matrix as the second, its other dimensions are rows too."""
    first, second = (dims_of(tensor) for tensor in node.inputs)
    if first is None or second is None or len(first) != len(dims):
        return None
    rows = axis == len(dims) - 2 or (len(second) == 2 and axis < len(dims) - 1)
    return {0: axis} if rows else None


def _gemm(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    del dims
    bias = dims_of(node.inputs[2]) if len(node.inputs) > 2 else ()
    if axis != 0 or node.attrs.get("transA", 0) or bias is None or (len(bias) == 2 and bias[0] != 1):
        return None
    return {0: 0}


def _transpose(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    order = node.attrs.get("perm") or range(len(dims))[::-1]
    return {0: order[axis]}


def _attention(node: gs.Node, dims: tuple[Dim, ...], axis: int) -> Slots | None:
    """Queries are independent of each other; the mask has a row for each, or one for all."""
    if axis != len(dims) - 2 or node.attrs.get("is_causal", 0) or any(not t.is_empty() for t in node.inputs[4:]):
        return None
    if len(node.inputs) < 4 or node.inputs[3].is_empty():
        return {0: axis}
    mask = dims_of(node.inputs[3])
    if mask is None or len(mask) < 2 or (mask[-2] != 1 and (mask[-2] is None or mask[-2] != dims[axis])):
        return None  # it may be 1 at run time
    return {0: axis} if mask[-2] == 1 else {0: axis, 3: len(mask) - 2}


_ELEMENTWISE = (
    *("Abs", "Add", "Cast", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sin"),
    *("Softplus", "Sqrt", "Sub", "Tanh", "Where"),
)
_RULES: dict[str, Callable[[gs.Node, tuple[Dim, ...], int], Slots | None]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _normalization),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "Attention": _attention,
    "Gemm": _gemm,
    "MatMul": _product,
    "Transpose": _transpose,
}
