"""The tables of cosines and sines of a rotary embedding: that they repeat each number, and the cache without that."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits
    from enginery.passes.graph.matcher import Match
    from enginery.passes.graph.symbolic import ShapeValues

_ELEMENTWISE = {"Cos", "Sin", "Cast", "Identity", "Neg"}


class Layout(Enum):
    """Where heads and lengths are among the four dimensions."""

    HEADS_FIRST = (1, 2)
    LENGTH_FIRST = (2, 1)

    @property
    def heads(self) -> int:
        return self.value[0]

    @property
    def length(self) -> int:
        return self.value[1]


def repeats(match: Match, table: gs.Tensor, layout: Layout, size: int, *, neighbours: bool) -> str | None:
    """Why a table is not shown to hold each number twice, for the two numbers of a pair; None when it is."""
    dims = match.shapes.dims(table)
    if dims is None or len(dims) != 4 or dims[layout.heads] != 1 or dims[3] != size:
        wanted = f"(batch, 1, length, {size})" if layout is Layout.HEADS_FIRST else f"(batch, length, 1, {size})"
        return f"{table.name!r} has shape {dims}; {wanted} is needed"
    if is_known(table):
        return _constant_repeats(table, size, neighbours=neighbours)
    node = producer(table)
    while node is not None and not node.domain:
        if neighbours and node.op == "Reshape":
            return None if _pairs_up(node, match.shapes, size) else f"{label(node)!r} does not repeat each number"
        if not neighbours and node.op == "Concat":
            twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
            last = node.attrs["axis"] in (-1, len(dims_of(node.outputs[0]) or ()) - 1)
            return None if twice and last else f"{label(node)!r} does not join two equal halves"
        step = _step_back(node, match.shapes)
        if step is None:
            break
        node = producer(step)
    return f"{table.name!r} is not shown to repeat {'each number' if neighbours else 'its first half'}"


def _constant_repeats(table: gs.Constant, size: int, *, neighbours: bool) -> str | None:
    values = peek(table)
    pairs = (
        (values[..., 0::2], values[..., 1::2]) if neighbours else (values[..., : size // 2], values[..., size // 2 :])
    )
    return None if np.array_equal(*pairs) else f"the constant {table.name!r} does not repeat its numbers"


def _pairs_up(node: gs.Node, shapes: ShapeValues, size: int) -> bool:
    """Whether a Reshape merges (..., size / 2, 2) into (..., size), where the 2 are copies."""
    before, after = shapes.dims(node.inputs[0]), shapes.dims(node.outputs[0])
    if before is None or after is None or before[-2:] != (size // 2, 2) or after[-1] != size:
        return False
    source = producer(node.inputs[0])
    if source is None or source.domain:
        return False
    if source.op == "Concat":
        last = source.attrs["axis"] in (-1, len(before) - 1)
        return last and len(source.inputs) == 2 and source.inputs[0] is source.inputs[1]
    given = shapes.dims(source.inputs[0])
    return source.op == "Expand" and given is not None and len(given) == len(before) and given[-1] == 1


def _step_back(node: gs.Node, shapes: ShapeValues) -> gs.Tensor | None:
    """The tensor whose last axis the node hands on elementwise."""
    if node.op in _ELEMENTWISE:
        return node.inputs[0]
    if node.op == "Mul":  # a scaling of the angles or of their cosines
        return next((one for one, other in (node.inputs, node.inputs[::-1]) if _one_number(other)), None)
    if node.op == "Unsqueeze" and is_known(node.inputs[1]):
        rank = len(shapes.dims(node.outputs[0]) or ())
        return node.inputs[0] if all(axis % rank != rank - 1 for axis in peek(node.inputs[1]).tolist()) else None
    return None


def _one_number(tensor: gs.Tensor) -> bool:
    return is_known(tensor) and int(np.prod(tensor.shape)) == 1


def cache(
    table: gs.Tensor, x: gs.Tensor, layout: Layout, half: int, *, neighbours: bool, at: gs.Node, edits: Edits
) -> gs.Tensor:
    """(batch or 1, length, size / 2) of a table over four dimensions, expanded over the batch of x."""
    dims, given = dims_of(table), dims_of(x)
    assert dims is not None
    assert given is not None
    length = dims[layout.length]
    heads, zero, one = (edits.constant("rotary", np.array([value])) for value in (layout.heads, 0, 1))
    flat = edits.node("Squeeze", [table, heads], at=at, name=f"{table.name}/flat")
    flat.dtype, flat.shape = table.dtype, [dims[0], length, 2 * half]
    stop, step = (2 * half, 2) if neighbours else (half, 1)
    bounds = [zero, *(edits.constant("rotary", np.array([value])) for value in (stop, 2, step))]
    first = edits.node("Slice", [flat, *bounds], at=at, name=f"{table.name}/half")
    first.dtype, first.shape = table.dtype, [dims[0], length, half]
    if dims[0] is not None and dims[0] == given[0]:
        return first
    batch = edits.node("Shape", [x], at=at, attrs={"start": 0, "end": 1}, name=f"{x.name}/batch")
    batch.dtype, batch.shape = np.dtype(np.int64), [1]
    wanted = edits.node("Concat", [batch, one, one], at=at, attrs={"axis": 0}, name=f"{table.name}/shape")
    wanted.dtype, wanted.shape = np.dtype(np.int64), [3]
    made = edits.node("Expand", [first, wanted], at=at, name=f"{table.name}/cache")
    made.dtype, made.shape = table.dtype, [given[0], length, half]
    return made
