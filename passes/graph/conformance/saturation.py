"""The ends of an integer grid, kept where a wider one takes its place.

What lies beyond the ends is clipped by QuantizeLinear, and that may be part of what the model computes: ONNX Runtime's
quantizer takes a Relu or Clip out where the grid behind it ends at the same values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.graph.conformance.grids import Array, Grid, scale_dtype
from enginery.passes.graph.edit import label, producer

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_SLACK = 1e-6
"""Of an end: ends that differ by rounding are the same."""


def saturated(edits: Edits, node: gs.Node, grid: Grid, scale: Array | None = None) -> gs.Tensor:
    """The input of a QuantizeLinear, clipped to the ends of its grid.

    With `scale`, those of the symmetric int8 grid that takes its place, an end that both share needs no operator.
    """
    source = node.inputs[0]
    limits = grid.limits
    for end, limit, op in zip((0, 1), (-128, 127), ("Max", "Min"), strict=True):
        bound = (limits[end] - grid.zero) * grid.scale
        if scale is not None and np.allclose(bound, limit * scale, rtol=_SLACK, atol=0):
            continue
        source = _clipped(edits, node, source, op, _spread(bound, grid, node))
    return source


def _clipped(edits: Edits, node: gs.Node, source: gs.Tensor, op: str, bound: Array | None) -> gs.Tensor:
    if bound is None:
        return source
    if op == "Max" and not np.any(bound):
        maker = producer(source)
        if maker is not None and maker.op == "Relu":
            return source
        return edits.node("Relu", [source], at=node, like=source, name=f"{label(node)}/clip")
    end = edits.constant(f"{label(node)}/end", bound.astype(scale_dtype(node)))
    return edits.node(op, [source, end], at=node, like=source, name=f"{label(node)}/clip")


def _spread(bound: Array, grid: Grid, node: gs.Node) -> Array | None:
    """A bound per channel, shaped like the tensor; None where its rank is not known and it matters."""
    if bound.size == 1 or not np.any(bound):
        return bound.reshape(-1)[:1].reshape(())
    if node.inputs[0].shape is None:
        return None
    shape = [1] * len(node.inputs[0].shape)
    shape[grid.axis] = -1
    return bound.reshape(shape)
