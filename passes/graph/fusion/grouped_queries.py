"""Grouped queries: keys and values that are repeated for several heads of queries.

Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2023.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.matcher import Op, Var, find
from enginery.passes.graph.symbolic import ShapeValues

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_ADDED = Op("Unsqueeze", Var("heads"), Var("axis"), name="added")
_REPEATED = Op("Reshape", Op("Expand", _ADDED, Var("to")), Var("shape"))


@dataclass(frozen=True)
class FuseGroupedQueries(ScopedPass):
    """Lets an `Attention` read keys and values before they are repeated for its groups.

    1. Where both are Reshape(Expand(Unsqueeze(x, 2), ...)) from (batch, groups, length, size) to
       (batch, heads, length, size), with heads a multiple of groups, the node reads x: `Attention` repeats by itself.
    2. Where only one of them is repeated, or they have different groups, nothing changes. (Refused.)
    """

    name: ClassVar[str] = "fuse-grouped-queries"

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        for node in edits.graph.nodes:
            if node.op != "Attention" or node.domain or "q_num_heads" in node.attrs:
                continue
            found = [_before_repeat(tensor, shapes) for tensor in node.inputs[1:3]]
            sources = [source for source in found if source is not None]
            if len(sources) < 2:
                if sources:
                    yield Refusal(label(node), "groups kept: only one of keys and values is repeated")
                continue
            groups = [dims[1] for source in sources if (dims := shapes.dims(source)) is not None]
            if groups[0] != groups[1]:
                yield Refusal(label(node), f"groups kept: {groups[0]} of keys and {groups[1]} of values")
                continue
            inputs = [node.inputs[0], *sources, *node.inputs[3:]]
            made = edits.node("Attention", inputs, at=node, takes_name=True, like=node.outputs[0], attrs=node.attrs)
            edits.replace(node.outputs[0], made)


def _before_repeat(tensor: gs.Tensor, shapes: ShapeValues) -> gs.Tensor | None:
    match = find(_REPEATED, tensor, shapes)
    if match is None or shapes.vector(match["axis"]) != (2,):
        return None
    source, repeated = match.dims("heads"), shapes.dims(tensor)
    added = shapes.dims(match.named["added"].outputs[0])
    if source is None or repeated is None or added is None or len(source) != 4 or len(repeated) != 4:
        return None
    same = (source[0], *source[2:]) == (repeated[0], *repeated[2:])
    heads, groups = repeated[1], source[1]
    multiple = isinstance(heads, int) and isinstance(groups, int) and heads % groups == 0
    return match["heads"] if same and multiple else None
