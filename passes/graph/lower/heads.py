"""The two layouts of attention: (batch, heads, length, size) and (batch, length, heads * size)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.graph.edit import label
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


def heads_objection(node: gs.Node) -> str | None:
    """Why the heads of an `Attention` cannot be merged with their sizes, or None when they can."""
    if sum(not tensor.is_empty() for tensor in node.inputs) > 4 or len(node.outputs) > 1:
        return "it has a cache or a second output"
    shapes = [dims_of(tensor) for tensor in node.inputs[:3]]
    for tensor, dims in zip(node.inputs, shapes, strict=False):
        if dims is None or len(dims) != 4:
            return f"{tensor.name!r} is not known to have rank 4"
        if not isinstance(dims[1], int) or not isinstance(dims[3], int):
            return f"{tensor.name!r} has {dims[1]} heads of size {dims[3]}; both must be fixed"
    return None


def head_count(tensor: gs.Tensor) -> tuple[int, int]:
    """Heads and size of a tensor that `heads_objection` accepted."""
    dims = dims_of(tensor)
    assert dims is not None
    heads, size = dims[1], dims[3]
    assert isinstance(heads, int)
    assert isinstance(size, int)
    return heads, size


def merge_heads(tensor: gs.Tensor, node: gs.Node, edits: Edits) -> gs.Tensor:
    """Go from (batch, heads, length, size) to (batch, length, heads * size), before `node`."""
    dims = dims_of(tensor)
    assert dims is not None
    heads, size = head_count(tensor)
    swapped = edits.node("Transpose", [tensor], at=node, attrs={"perm": [0, 2, 1, 3]})
    swapped.dtype, swapped.shape = tensor.dtype, [dims[0], dims[2], heads, size]
    shape = edits.constant(f"{label(node)}/merged", np.array([0, 0, heads * size]))
    merged = edits.node("Reshape", [swapped, shape], at=node)
    merged.dtype, merged.shape = tensor.dtype, [dims[0], dims[2], heads * size]
    return merged


def split_heads(tensor: gs.Tensor, node: gs.Node, edits: Edits, heads: int, size: int) -> gs.Tensor:
    """Go from (batch, length, heads * size) back to (batch, heads, length, size), in place of `node`'s output."""
    shape = edits.constant(f"{label(node)}/split", np.array([0, 0, heads, size]))
    split = edits.node("Reshape", [tensor, shape], at=node)
    split.dtype, split.shape = tensor.dtype, [*tensor.shape[:2], heads, size]
    return edits.node("Transpose", [split], at=node, like=node.outputs[0], attrs={"perm": [0, 2, 1, 3]})
