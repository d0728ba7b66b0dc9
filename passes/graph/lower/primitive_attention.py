"""Attention as two products and a softmax, for compilers that find it themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.edit import label
from enginery.passes.graph.lower.attention import LowerAttention
from enginery.passes.graph.lower.heads import head_count
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_INDEX = np.dtype(np.int64)


@dataclass(frozen=True)
class LowerToPrimitiveAttention(LowerAttention):
    """Writes `Attention` as MatMul, Add, Softmax, MatMul.

    TensorRT parses `Attention` and cannot build it in float32; what its fusers look for is this form, with the scale
    on the queries and nothing between the products but the mask and the softmax.

    1. `Attention` over (batch, heads, length, size) with an additive mask or none becomes
       MatMul(Softmax(MatMul(Q * scale, K^T) + mask), V). A boolean mask becomes an additive one first.
    2. Causal attention gets its mask as a tensor: a query sees the keys up to its own position.
    3. Keys and values with fewer heads than the queries are repeated for each group; a single head broadcasts.
    4. Scores that are capped become cap * Tanh(scores / cap), before the mask.
    5. A cache, a second output, and heads or sizes that are not fixed are left. (Refused.)
    """

    name: ClassVar[str] = "lower-to-primitive-attention"

    def objection(self, node: gs.Node) -> str | None:
        del node

    def rewrite(self, node: gs.Node, edits: Edits) -> gs.Tensor:
        queries = node.inputs[0]
        heads, size = head_count(queries)
        keys, values = (_repeated(tensor, heads, node, edits) for tensor in node.inputs[1:3])
        given, read = dims_of(queries), dims_of(keys)
        assert given is not None
        assert read is not None
        name = label(node)
        factor = edits.constant(f"{name}/scale", np.array(node.attrs.get("scale", 1 / math.sqrt(size)), queries.dtype))
        scaled = edits.node("Mul", [queries, factor], at=node, like=queries, name=f"{name}/scaled")
        turned = edits.node("Transpose", [keys], at=node, attrs={"perm": [0, 1, 3, 2]}, name=f"{name}/keys")
        turned.dtype, turned.shape = keys.dtype, [read[0], read[1], read[3], read[2]]
        scores = edits.node("MatMul", [scaled, turned], at=node, name=f"{name}/scores")
        scores.dtype, scores.shape = queries.dtype, [given[0], given[1], given[2], read[2]]
        scores = _capped(scores, node, edits)
        for mask in _masks(node, edits):
            scores = edits.node("Add", [scores, mask], at=node, like=scores, name=f"{name}/masked")
        weights = edits.node("Softmax", [scores], at=node, like=scores, attrs={"axis": -1}, name=f"{name}/softmax")
        return edits.node("MatMul", [weights, values], at=node, like=node.outputs[0], takes_name=True)


def _capped(scores: gs.Tensor, node: gs.Node, edits: Edits) -> gs.Tensor:
    """Case 4."""
    if not (cap := node.attrs.get("softcap", 0.0)):
        return scores
    bound = edits.constant(f"{label(node)}/cap", np.array(cap, scores.dtype))
    for op, *more in (("Div", bound), ("Tanh",), ("Mul", bound)):
        scores = edits.node(op, [scores, *more], at=node, like=scores, name=f"{label(node)}/capped")
    return scores


def _masks(node: gs.Node, edits: Edits) -> list[gs.Tensor]:
    """What is added to the scores."""
    masks = [_additive(tensor, node, edits) for tensor in node.inputs[3:] if not tensor.is_empty()]
    return [*masks, _additive(_causal(node, edits), node, edits)] if node.attrs.get("is_causal", 0) else masks


def _additive(mask: gs.Tensor, node: gs.Node, edits: Edits) -> gs.Tensor:
    dtype = node.inputs[0].dtype
    if mask.dtype == dtype:
        return mask
    keep, hide = (edits.constant(f"{mask.name}/additive", np.array(value, dtype)) for value in (0.0, -np.inf))
    made = edits.node("Where", [mask, keep, hide], at=node, name=f"{mask.name}/additive")
    made.dtype, made.shape = dtype, mask.shape
    return made


def _causal(node: gs.Node, edits: Edits) -> gs.Tensor:
    """Case 2: (query length, key length), true where a key is not after its query."""
    queries, keys = (_positions(tensor, node, edits) for tensor in node.inputs[:2])
    last = edits.constant("last", np.array([1]))
    column = edits.node("Unsqueeze", [queries, last], at=node, name=f"{label(node)}/rows")
    column.dtype, column.shape = _INDEX, [*(queries.shape or [None]), 1]
    seen = edits.node("LessOrEqual", [keys, column], at=node, name=f"{label(node)}/causal")
    seen.dtype, seen.shape = np.dtype(bool), [column.shape[0], *(keys.shape or [None])]
    return seen


def _positions(tensor: gs.Tensor, node: gs.Node, edits: Edits) -> gs.Tensor:
    """0, 1, ... over the length of a tensor."""
    length = edits.node("Shape", [tensor], at=node, attrs={"start": 2, "end": 3}, name=f"{tensor.name}/length")
    length.dtype, length.shape = _INDEX, [1]
    count = edits.node("Squeeze", [length], at=node, name=f"{tensor.name}/count")
    count.dtype, count.shape = _INDEX, []
    zero, one = (edits.constant("position", np.array(value)) for value in (0, 1))
    made = edits.node("Range", [zero, count, one], at=node, name=f"{tensor.name}/positions")
    dims = dims_of(tensor)
    made.dtype, made.shape = _INDEX, [None if dims is None else dims[2]]
    return made


def _repeated(tensor: gs.Tensor, heads: int, node: gs.Node, edits: Edits) -> gs.Tensor:
    """Case 3."""
    groups, size = head_count(tensor)
    if groups in (heads, 1):
        return tensor
    dims = dims_of(tensor)
    assert dims is not None
    times = heads // groups
    axis = edits.constant(f"{tensor.name}/axis", np.array([2]))
    apart = edits.node("Unsqueeze", [tensor, axis], at=node, name=f"{tensor.name}/groups")
    apart.dtype, apart.shape = tensor.dtype, [*dims[:2], 1, *dims[2:]]
    often = edits.constant(f"{tensor.name}/times", np.array([1, 1, times, 1, 1]))
    tiled = edits.node("Expand", [apart, often], at=node, name=f"{tensor.name}/repeated")
    tiled.dtype, tiled.shape = tensor.dtype, [*dims[:2], times, *dims[2:]]
    target = edits.constant(f"{tensor.name}/shape", np.array([0, heads, -1, size]))
    made = edits.node("Reshape", [tiled, target], at=node, name=f"{tensor.name}/heads")
    made.dtype, made.shape = tensor.dtype, [dims[0], heads, *dims[2:]]
    return made
