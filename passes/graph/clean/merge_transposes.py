"""Chains of transposes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class MergeTransposes(ScopedPass):
    """Replaces transposes in a row by one.

    1. `Transpose(Transpose(x, a), b)` becomes `Transpose(x, a[b])`; two that undo each other go.
    2. `Reshape(Transpose(Reshape(x, [-1, a, b]), [0, 2, 1]), [..., b, a])` becomes one Transpose of the last two
       dimensions, where x ends in `a, b` and the target restores the others (torch's exporter writes this for
       the keys of attention).
    3. `Transpose(Where(c, number, Transpose(x)))` becomes `Where(Transpose(c), number, x)` where the transposes undo
       each other and nothing else reads between them: c, a mask of rows, is small.
    4. `Squeeze(Transpose(Unsqueeze(x)))` that takes out the axis that it added becomes one Transpose of x.
    """

    name: ClassVar[str] = "merge-transposes"
    tolerance: ClassVar[float] = 0.0

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        for node in edits.graph.nodes:
            if (moved := _through_choice(node, edits)) is not None:
                edits.replace(node.outputs[0], moved)
                continue
            found = _chain(node) or _batched(node, shapes) or _around(node, shapes)
            if found is None:
                continue
            source, order = found
            if order == sorted(order) and edits.can_replace(node.outputs[0], source):
                edits.replace(node.outputs[0], source)
            else:
                merged = edits.node("Transpose", [source], at=node, like=node.outputs[0], attrs={"perm": order})
                edits.replace(node.outputs[0], merged)
        return ()


def _chain(node: gs.Node) -> tuple[gs.Tensor, list[int]] | None:
    first = producer(node.inputs[0]) if node.op == "Transpose" else None
    if first is None or first.op != "Transpose" or "perm" not in node.attrs or "perm" not in first.attrs:
        return None
    return first.inputs[0], [first.attrs["perm"][axis] for axis in node.attrs["perm"]]


def _batched(node: gs.Node, shapes: ShapeValues) -> tuple[gs.Tensor, list[int]] | None:
    swap = producer(node.inputs[0]) if node.op == "Reshape" else None
    if swap is None or swap.op != "Transpose" or list(swap.attrs.get("perm", ())) != [0, 2, 1]:
        return None
    flat = producer(swap.inputs[0])
    if flat is None or flat.op != "Reshape":
        return None
    source = flat.inputs[0]
    dims, middle, target = shapes.dims(source), shapes.vector(flat.inputs[1]), shapes.vector(node.inputs[1])
    if dims is None or middle is None or target is None or len(middle) != 3 or len(dims) < 3:
        return None
    if not node.attrs.get("allowzero", 0):
        given = shapes.dims(node.inputs[0]) or ()
        target = tuple(given[i] if value == 0 and i < len(given) else value for i, value in enumerate(target))
    wanted = (*dims[:-2], dims[-1], dims[-2])
    if middle[0] != -1 or middle[1:] != dims[-2:] or len(target) != len(wanted) or target.count(-1) > 1:
        return None
    if any(one not in (other, -1) for one, other in zip(target, wanted, strict=True)):
        return None  # one open dimension is what is left for it
    rank = len(dims)
    return source, [*range(rank - 2), rank - 1, rank - 2]


def _around(node: gs.Node, shapes: ShapeValues) -> tuple[gs.Tensor, list[int]] | None:
    """Case 4."""
    turn = producer(node.inputs[0]) if node.op == "Squeeze" and len(node.inputs) == 2 else None
    added = producer(turn.inputs[0]) if turn is not None and turn.op == "Transpose" else None
    if turn is None or added is None or added.op != "Unsqueeze":
        return None
    order = turn.attrs.get("perm")
    places = [shapes.vector(each.inputs[1]) for each in (added, node)]
    if order is None or any(place is None or len(place) != 1 or not isinstance(place[0], int) for place in places):
        return None
    into, out = (int(place[0]) % len(order) for place in places if place is not None)
    if order[out] != into:
        return None
    return added.inputs[0], [axis - (axis > into) for axis in order if axis != into]


def _through_choice(node: gs.Node, edits: Edits) -> gs.Tensor | None:
    """Case 3."""
    choice = producer(node.inputs[0]) if node.op == "Transpose" else None
    if (
        choice is None
        or choice.op != "Where"
        or len(choice.outputs[0].outputs) > 1
        or edits.is_output(choice.outputs[0])
    ):
        return None
    condition, number, turned = choice.inputs
    first, order = producer(turned), node.attrs.get("perm")
    if first is None or first.op != "Transpose" or order is None or len(turned.outputs) > 1 or edits.is_output(turned):
        return None
    undone = [first.attrs.get("perm", [])[axis] for axis in order] == sorted(order)
    dims = dims_of(condition)
    if not undone or dims is None or len(dims) != len(order) or not (is_known(number) and math.prod(number.shape) == 1):
        return None
    inner = edits.node("Transpose", [condition], at=node, attrs={"perm": order}, name=f"{condition.name}/turned")
    inner.dtype, inner.shape = condition.dtype, [dims[axis] for axis in order]
    return edits.node("Where", [inner, number, first.inputs[0]], at=node, like=node.outputs[0], name=choice.name)
