"""Attention as two products and a softmax, for compilers that find it themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.lower.heads import head_count, heads_objection
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class LowerToPrimitiveAttention(ScopedPass):
    """Writes `Attention` as MatMul, Add, Softmax, MatMul.

    TensorRT parses `Attention` and cannot build it in float32; what its fusers look for is this form, with the scale
    on the queries and nothing between the products but the mask and the softmax.

    1. `Attention` over (batch, heads, length, size) with an additive mask or none becomes
       MatMul(Softmax(MatMul(Q * scale, K^T) + mask), V). A boolean mask becomes an additive one first.
    2. Fewer heads of keys than of queries, a cache, causal or soft-capped attention are left. (Refused.)
    """

    name: ClassVar[str] = "lower-to-primitive-attention"

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        for node in edits.graph.nodes:
            if node.op == "Attention" and not node.domain:
                reason = heads_objection(node) or _objection(node)
                if reason is not None:
                    yield Refusal(label(node), f"not lowered: {reason}")
                else:
                    edits.replace(node.outputs[0], _lower(node, edits))


def _objection(node: gs.Node) -> str | None:
    if node.attrs.get("is_causal", 0) or node.attrs.get("softcap", 0.0):
        return "it is causal or soft-capped"
    heads = [head_count(tensor)[0] for tensor in node.inputs[:3]]
    return None if len(set(heads)) == 1 else f"queries have {heads[0]} heads and keys {heads[1]}"


def _lower(node: gs.Node, edits: Edits) -> gs.Tensor:
    queries, keys, values = node.inputs[:3]
    given, read = dims_of(queries), dims_of(keys)
    assert given is not None
    assert read is not None
    name = label(node)
    scale = float(node.attrs.get("scale", 1 / math.sqrt(head_count(queries)[1])))
    factor = edits.constant(f"{name}/scale", np.array(scale, queries.dtype))
    scaled = edits.node("Mul", [queries, factor], at=node, like=queries, name=f"{name}/scaled")
    turned = edits.node("Transpose", [keys], at=node, attrs={"perm": [0, 1, 3, 2]}, name=f"{name}/keys")
    turned.dtype, turned.shape = keys.dtype, [read[0], read[1], read[3], read[2]]
    scores = edits.node("MatMul", [scaled, turned], at=node, name=f"{name}/scores")
    scores.dtype, scores.shape = queries.dtype, [given[0], given[1], given[2], read[2]]
    if len(node.inputs) > 3:
        mask = _additive(node.inputs[3], node, edits)
        scores = edits.node("Add", [scores, mask], at=node, like=scores, name=f"{name}/masked")
    weights = edits.node("Softmax", [scores], at=node, like=scores, attrs={"axis": -1}, name=f"{name}/softmax")
    return edits.node("MatMul", [weights, values], at=node, like=node.outputs[0], takes_name=True)


def _additive(mask: gs.Tensor, node: gs.Node, edits: Edits) -> gs.Tensor:
    dtype = node.inputs[0].dtype
    if mask.dtype == dtype:
        return mask
    keep, hide = (edits.constant(f"{mask.name}/additive", np.array(value, dtype)) for value in (0.0, -np.inf))
    made = edits.node("Where", [mask, keep, hide], at=node, name=f"{mask.name}/additive")
    made.dtype, made.shape = dtype, mask.shape
    return made
