"""Masks of shifted windows.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021. The windows of an image are
a part of the batch, and each has a mask of its own: the scores are seen as (batch, windows, heads, length, length)
while it is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.graph.matcher import Match, Op, Pattern, Var
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_INDEX = np.dtype(np.int64)


def window_layer(inner: Pattern, number: int) -> Pattern:
    """`inner`, and to each window its mask."""
    apart = Op("Reshape", inner, Var(f"into_{number}"), name=f"apart_{number}")
    return Op("Reshape", Op("Add", apart, Var(f"windows_{number}")), Var(f"back_{number}"), name=f"whole_{number}")


def window_objection(match: Match, number: int) -> str | None:
    """Why the layer is no mask (1, windows, 1 or heads, length, length) for windows that are a part of the batch."""
    mask, apart = match[f"windows_{number}"], match.named[f"apart_{number}"]
    before, inside, after, dims = (
        match.shapes.dims(each)
        for each in (apart.inputs[0], apart.outputs[0], match.named[f"whole_{number}"].outputs[0], mask)
    )
    if before is None or inside is None or after is None or len(before) != 4 or len(inside) != 5:
        return f"the scores are seen as {inside} while {mask.name!r} is added, not as windows"
    if inside[2:] != before[1:] or after[1:] != before[1:] or not isinstance(inside[1], int):
        return f"the scores {before} become {inside} and {after} around {mask.name!r}, which are no windows of them"
    if dims is None or len(dims) != 5 or dims[0] != 1 or dims[1] != inside[1] or dims[2] not in (1, inside[2]):
        return f"the mask of windows {mask.name!r} has shape {dims}"
    if dims[3:] != inside[3:]:
        return f"the mask of windows {mask.name!r} has shape {dims}"
    return None


def tiled(match: Match, number: int, queries: gs.Tensor, edits: Edits) -> gs.Tensor:
    """The masks of the windows for each image of the batch: (batch * windows, 1 or heads, length, length)."""
    mask, at = match[f"windows_{number}"], match.root
    dims = dims_of(mask)
    assert dims is not None
    windows = edits.constant("windows", np.array([dims[1]]))
    count = edits.node("Shape", [queries], at=at, attrs={"start": 0, "end": 1}, name=f"{mask.name}/count")
    images = edits.node("Div", [count, windows], at=at, name=f"{mask.name}/images")
    target = edits.node(
        "Concat", [images, edits.constant("rest", np.ones(4, _INDEX))], at=at, attrs={"axis": 0},
        name=f"{mask.name}/batch",
    )  # fmt: skip
    for made, length in ((count, 1), (images, 1), (target, 5)):
        made.dtype, made.shape = _INDEX, [length]
    often = edits.node("Expand", [mask, target], at=at, name=f"{mask.name}/repeated")
    often.dtype, often.shape = mask.dtype, [None, *dims[1:]]
    shape = edits.constant(f"{mask.name}/shape", np.array([-1, *dims[2:]]))
    made = edits.node("Reshape", [often, shape], at=at, name=f"{mask.name}/tiled")
    made.dtype, made.shape = mask.dtype, [(dims_of(queries) or (None,))[0], *dims[2:]]
    return made
