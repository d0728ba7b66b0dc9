"""Chains of reshapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_SHAPE_ONLY = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class MergeReshapes(ScopedPass):
    """Lets a reshape read past the reshapes before it.

    1. A `Reshape` to a constant shape reads through any `Reshape`, `Flatten`, `Squeeze` or `Unsqueeze` before it.
    2. A target that copies dimensions of its input (a 0) is kept where the reshape before it moves them. (Refused.)
    3. A `Squeeze` of the very axes that the `Unsqueeze` before it added, or the reverse, hands its input on.
    """

    name: ClassVar[str] = "merge-reshapes"
    tolerance: ClassVar[float] = 0.0

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        for node in edits.graph.nodes:
            first = producer(node.inputs[0]) if node.op in _SHAPE_ONLY and not node.domain else None
            if first is None or first.op not in _SHAPE_ONLY or first.domain:
                continue
            if _undoes(node, first):  # case 3
                if edits.can_replace(node.outputs[0], first.inputs[0]):
                    edits.replace(node.outputs[0], first.inputs[0])
            elif node.op == "Reshape" and is_known(node.inputs[1]):
                if not _same_copies(node, first, shapes):
                    yield Refusal(
                        label(node), f"not merged with {label(first)}: its target copies a dimension that it moves"
                    )
                    continue
                inputs = [first.inputs[0], node.inputs[1]]
                merged = edits.node("Reshape", inputs, at=node, like=node.outputs[0], attrs=node.attrs)
                edits.replace(node.outputs[0], merged)


def _same_copies(node: gs.Node, first: gs.Node, shapes: ShapeValues) -> bool:
    """Whether every dimension that the target copies is the same one before the first reshape."""
    copied = [index for index, value in enumerate(shapes.vector(node.inputs[1]) or ()) if value == 0]
    if not copied:
        return True
    if node.attrs.get("allowzero", 0):
        return False
    before, between = shapes.dims(first.inputs[0]), shapes.dims(node.inputs[0])
    if before is None or between is None or copied[-1] >= min(len(before), len(between)):
        return False
    return all(before[index] == between[index] for index in copied)


def _undoes(node: gs.Node, first: gs.Node) -> bool:
    if {node.op, first.op} != {"Squeeze", "Unsqueeze"}:
        return False
    one, other = _axes(node), _axes(first)
    return one is not None and one == other and min(one) >= 0


def _axes(node: gs.Node) -> list[int] | None:
    if "axes" in node.attrs:
        return sorted(node.attrs["axes"])
    if len(node.inputs) > 1 and is_known(node.inputs[1]):
        return sorted(peek(node.inputs[1]).tolist())
    return None
