"""Attention in ONNX Runtime's own form, for its CUDA kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.graph.lower.attention import LowerAttention
from enginery.passes.graph.lower.heads import head_count, merge_heads, split_heads

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class LowerToMultiHeadAttention(LowerAttention):
    """Writes `Attention` as `com.microsoft.MultiHeadAttention`, which reads (batch, length, heads * size).

    1. An `Attention` over (batch, heads, length, size) with fixed heads and size becomes a MultiHeadAttention between
       a transpose and a reshape on every side. Those undo what the exporter wrote around it; `merge-transposes`,
       `merge-reshapes` and `simplify-shapes` take both out. An additive mask becomes its bias.
    2. Causal or soft-capped attention, and one with a cache or a boolean mask, is left. (Refused.)
    3. Fewer heads of keys than of queries, or heads or sizes that are not fixed, are left. (Refused.)
    """

    name: ClassVar[str] = "lower-to-multi-head-attention"

    def objection(self, node: gs.Node) -> str | None:
        if node.attrs.get("is_causal", 0) or node.attrs.get("softcap", 0.0):
            return "it is causal or soft-capped"
        heads = [head_count(tensor)[0] for tensor in node.inputs[:3]]
        if len(set(heads)) > 1:
            return f"queries, keys and values have {heads[0]}, {heads[1]} and {heads[2]} heads"
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is not None and (mask.dtype != node.inputs[0].dtype or len(mask.shape or ()) != 4):
            return f"its mask {mask.name!r} is not additive, or not of rank 4"
        return None

    def rewrite(self, node: gs.Node, edits: Edits) -> gs.Tensor:
        inputs = [merge_heads(tensor, node, edits) for tensor in node.inputs[:3]]
        heads, size = head_count(node.inputs[2])
        queries = inputs[0]
        if len(node.inputs) > 3:
            inputs += [edits.empty(), edits.empty(), node.inputs[3]]
        attrs = {"num_heads": heads} | {key: value for key, value in node.attrs.items() if key == "scale"}
        made = edits.node("MultiHeadAttention", inputs, at=node, takes_name=True, attrs=attrs, domain="com.microsoft")
        made.dtype, made.shape = queries.dtype, [*queries.shape[:2], heads * size]
        return split_heads(made, node, edits, heads, size)
