"""Rotary embedding over (batch, length, heads * size), with no transposes around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.lower.heads import head_count, merge_heads, split_heads
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class PackRotary(ScopedPass):
    """Writes `RotaryEmbedding` in its form for packed heads, which projections feed without a transpose.

    1. A `RotaryEmbedding` over (batch, heads, length, size) with fixed heads and size becomes one over
       (batch, length, heads * size), between a transpose and a reshape on both sides. `merge-transposes` and
       `merge-reshapes` take them out against those of the projection and of packed attention.
    2. Heads or sizes that are not fixed are left. (Refused.) So is what a transpose did not make: nothing would cancel.
    """

    name: ClassVar[str] = "pack-rotary"

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        for node in edits.graph.nodes:
            if node.op != "RotaryEmbedding" or node.domain or "num_heads" in node.attrs:
                continue
            reason = _objection(node)
            if reason is not None:
                yield Refusal(label(node), f"not packed: {reason}")
            else:
                edits.replace(node.outputs[0], _pack(node, edits))


def _objection(node: gs.Node) -> str | None:
    tensor = node.inputs[0]
    dims = dims_of(tensor)
    if dims is None or len(dims) != 4 or not isinstance(dims[1], int) or not isinstance(dims[3], int):
        return f"{tensor.name!r} has shape {dims}; (batch, heads, length, size) with fixed heads and size is needed"
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or maker.op != "Transpose" or list(maker.attrs.get("perm", ())) != [0, 2, 1, 3]:
        return f"{tensor.name!r} is not made by a transpose of heads and length"
    return None


def _pack(node: gs.Node, edits: Edits) -> gs.Tensor:
    heads, size = head_count(node.inputs[0])
    packed = merge_heads(node.inputs[0], node, edits)
    attrs = {**node.attrs, "num_heads": heads}
    inputs = [packed, *node.inputs[1:]]
    made = edits.node("RotaryEmbedding", inputs, at=node, takes_name=True, like=packed, attrs=attrs)
    return split_heads(made, node, edits, heads, size)
