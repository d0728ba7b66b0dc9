"""Masks that exporters look up element by element."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class SimplifyMasks(ScopedPass):
    """Replaces the towers in which exporters write attention masks.

    1. A `GatherND` whose indices enumerate its whole input, each dimension by a Range along an axis of its own, in
       order, is the input with unit dimensions added: it becomes an `Unsqueeze`. torch writes mask[batch, key] so.
    2. Indices that are not shown to enumerate everything are left. (Refused.)
    3. `And` with a single true and `Or` with a single false hand their other input on.
    """

    name: ClassVar[str] = "simplify-masks"
    tolerance: ClassVar[float] = 0.0
    in_functions: ClassVar[bool] = False

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        for node in edits.graph.nodes:
            if node.domain:
                continue
            if node.op in ("And", "Or"):
                kept = _neutral(node)
                if kept is not None and edits.can_replace(node.outputs[0], kept):
                    edits.replace(node.outputs[0], kept)
            elif node.op == "GatherND" and node.attrs.get("batch_dims", 0) == 0:
                axes = _added_axes(node, shapes)
                if axes is None:
                    yield Refusal(label(node), "gather kept: its indices are not shown to enumerate its input")
                    continue
                constant = edits.constant(f"{label(node)}/axes", np.array(axes, np.int64))
                inputs = [node.inputs[0], constant]
                made = edits.node("Unsqueeze", inputs, at=node, takes_name=True, like=node.outputs[0])
                edits.replace(node.outputs[0], made)


def _neutral(node: gs.Node) -> gs.Tensor | None:
    for constant, kept in (node.inputs, node.inputs[::-1]):
        if is_known(constant) and int(np.prod(constant.shape)) == 1 and kept.shape is not None:
            wanted = node.op == "And"
            if len(constant.shape) <= len(kept.shape) and bool(peek(constant).reshape(())) is wanted:
                return kept
    return None


def _added_axes(node: gs.Node, shapes: ShapeValues) -> list[int] | None:
    """The axes of the result that the input lacks, or None when the gather does something else."""
    data, joined = shapes.dims(node.inputs[0]), producer(node.inputs[1])
    result = shapes.dims(node.outputs[0])
    if data is None or result is None or joined is None or joined.op != "Concat" or len(joined.inputs) != len(data):
        return None
    if joined.attrs["axis"] not in (-1, len(result)):
        return None
    places: list[int] = []
    for size, part in zip(data, joined.inputs, strict=True):
        place = _enumerated_axis(part, size, len(result), shapes)
        if place is None:
            return None
        places.append(place)
    added = [axis for axis in range(len(result)) if axis not in places]
    if places != sorted(set(places)) or any(result[axis] != 1 for axis in added):
        return None
    return added


def _enumerated_axis(index: gs.Tensor, size: int | str, rank: int, shapes: ShapeValues) -> int | None:
    """The axis along which an index of shape (..., 1) counts from 0 to `size`, all others being copies."""
    node = producer(index)
    if node is None or node.op != "Unsqueeze" or shapes.vector(node.inputs[1]) not in ((-1,), (rank,)):
        return None
    tensor, counter = node.inputs[0], producer(node.inputs[0])
    if counter is not None and counter.op == "Expand":
        tensor, counter = counter.inputs[0], producer(counter.inputs[0])
    dims = shapes.dims(tensor)
    if dims is None:
        return None
    axis = [place for place, dim in enumerate(dims) if dim != 1]
    while counter is not None and counter.op in ("Unsqueeze", "Cast", "Identity"):
        counter = producer(counter.inputs[0])
    if counter is None or counter.op != "Range" or len(axis) > 1:
        return None
    start, stop, step = (shapes.vector(each) for each in counter.inputs)
    if (start, stop, step) != ((0,), (size,), (1,)):
        return None
    return rank - len(dims) + axis[0] if axis else None
