"""Attention over (batch, length, heads * size), with no transposes around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.lower.heads import head_count, heads_objection, merge_heads, split_heads

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class PackAttention(ScopedPass):
    """Writes `Attention` in its form for packed heads, which projections feed without a transpose.

    1. An `Attention` over (batch, heads, length, size) with fixed heads and sizes becomes one over
       (batch, length, heads * size), between a transpose and a reshape on every side. Those undo what the exporter
       wrote around it; `merge-transposes`, `merge-reshapes` and `simplify-shapes` take both out.
    2. One with a cache or a second output, or whose heads or sizes are not fixed, is left. (Refused.)
    """

    name: ClassVar[str] = "pack-attention"

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        for node in edits.graph.nodes:
            if node.op == "Attention" and not node.domain and "q_num_heads" not in node.attrs:
                reason = heads_objection(node)
                if reason is not None:
                    yield Refusal(label(node), f"not packed: {reason}")
                else:
                    edits.replace(node.outputs[0], _pack(node, edits))


def _pack(node: gs.Node, edits: Edits) -> gs.Tensor:
    packed = [merge_heads(tensor, node, edits) for tensor in node.inputs[:3]]
    heads, _ = head_count(node.inputs[0])
    groups, size = head_count(node.inputs[2])
    attrs = {**node.attrs, "q_num_heads": heads, "kv_num_heads": groups}
    made = edits.node("Attention", [*packed, *node.inputs[3:]], at=node, takes_name=True, attrs=attrs)
    made.dtype, made.shape = packed[0].dtype, [*packed[0].shape[:2], heads * size]
    return split_heads(made, node, edits, heads, size)
