"""Between tensors of three dimensions and of four: attention without heads is attention of one head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

HEADS = 1
"""The axis of the heads."""


def lifted(tensor: gs.Tensor, at: gs.Node, edits: Edits, *, axis: int = HEADS) -> gs.Tensor:
    """(batch, length, size) as (batch, 1, length, size); other ranks than 3 stay as they are."""
    dims = dims_of(tensor)
    if dims is None or len(dims) != 3:
        return tensor
    made = edits.node(
        "Unsqueeze", [tensor, edits.constant("axis", np.array([axis]))], at=at, name=f"{tensor.name}/lifted"
    )
    made.dtype, made.shape = tensor.dtype, [*dims[:axis], 1, *dims[axis:]]
    return made


def lowered(tensor: gs.Tensor, *, like: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    """The inverse, where `like` has rank 3; the result has the type and shape of `like`."""
    tensor.dtype = like.dtype
    dims = dims_of(like)
    if dims is None or len(dims) != 3:
        tensor.shape = like.shape
        return tensor
    tensor.shape = [dims[0], 1, *dims[1:]]
    axis = edits.constant("axis", np.array([HEADS]))
    return edits.node("Squeeze", [tensor, axis], at=at, like=like, name=f"{tensor.name}/lowered")
