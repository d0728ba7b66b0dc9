"""Attention over (batch, length, heads * size), with no transposes around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.graph.lower.attention import LowerAttention
from enginery.passes.graph.lower.heads import head_count, merge_heads, split_heads

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_TO_PACKED = (0, 2, 1, 3)


@dataclass(frozen=True)
class PackAttention(LowerAttention):
    """Writes `Attention` in its form for packed heads, which projections feed without a transpose.

    1. An `Attention` over (batch, heads, length, size) with fixed heads and sizes becomes one over
       (batch, length, heads * size), between a transpose and a reshape on every side. Those undo what the exporter
       wrote around it; `merge-transposes`, `merge-reshapes` and `simplify-shapes` take both out.
    2. One with a cache or a second output, or whose heads or sizes are not fixed, is left. (Refused.)
    3. One whose result goes on in another layout is left: its transposes would undo none. (Refused.)
    """

    name: ClassVar[str] = "pack-attention"
    verb: ClassVar[str] = "packed"

    def objection(self, node: gs.Node) -> str | None:
        turned = [tuple(reader.attrs.get("perm", ())) for reader in node.outputs[0].outputs if reader.op == "Transpose"]
        if turned and _TO_PACKED not in turned:
            return f"its result is transposed by {list(turned[0])}, not to (batch, length, heads, size)"
        return None

    def rewrite(self, node: gs.Node, edits: Edits) -> gs.Tensor:
        packed = [merge_heads(tensor, node, edits) for tensor in node.inputs[:3]]
        heads, _ = head_count(node.inputs[0])
        groups, size = head_count(node.inputs[2])
        attrs = {**node.attrs, "q_num_heads": heads, "kv_num_heads": groups}
        made = edits.node("Attention", [*packed, *node.inputs[3:]], at=node, takes_name=True, attrs=attrs)
        made.dtype, made.shape = packed[0].dtype, [*packed[0].shape[:2], heads * size]
        return split_heads(made, node, edits, heads, size)
