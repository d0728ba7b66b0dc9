"""Scales must be positive, finite, and as many as the zero points."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule
from enginery.passes.graph.conformance.grids import (
    Grid,
    grid_of,
    is_dequantize,
    is_quantize,
    linear,
    scale_dtype,
    spread,
)
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


class BadScale(Rule):
    """Scales that are zero, negative or not finite.

    1. Zero, negative or NaN: the parser refuses the node.
    2. Infinite: accepted in silence, and every value becomes 0 or NaN.
    3. Fixed for int8 constants: a channel of scale 0 holds zeros, so its integers become 0 with scale 1; a negative
       scale changes sign together with its integers.
    4. Not fixed for activations, nor where a scale is not finite: the range was never measured.
    5. As many zero points as scales are needed; the parser refuses others, and so does ONNX. (Not fixed.)
    """

    name: ClassVar[str] = "bad-scale"
    remedy: ClassVar[str] = "rewrite the constant with positive scales, same values"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not (is_quantize(node) or is_dequantize(node)):
                continue
            grid = grid_of(node)
            if grid is not None and grid.zero.size != grid.scale.size:
                yield Match(label(node), f"has {_count(grid.scale.size, 'scale')} and {grid.zero.size} zero points")
                continue
            if grid is None or bool(np.all(np.isfinite(grid.scale) & (grid.scale > 0))):
                continue
            bad = grid.scale[~(np.isfinite(grid.scale) & (grid.scale > 0))]
            reason = f"has the scale {bad.reshape(-1)[0]:g}; a scale must be positive and finite"
            fixable = (
                is_dequantize(node)
                and is_known(node.inputs[0])
                and grid.dtype == np.int8
                and grid.symmetric
                and not grid.block
                and bool(np.isfinite(grid.scale).all())
            )
            yield Match(label(node), reason, (lambda n=node, g=grid: _rewrite(edits, n, g)) if fixable else None)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _rewrite(edits: Edits, node: gs.Node, grid: Grid) -> None:
    given = node.inputs[0]
    assert is_known(given)
    integers = peek(given).astype(np.int16) * np.sign(spread(grid.scale, grid, given.shape)).astype(np.int16)
    constant = edits.constant(f"{given.name}/positive", np.clip(integers, -128, 127).astype(np.int8))
    scale = np.where(grid.scale == 0, 1.0, np.abs(grid.scale))
    new = linear(edits, "DequantizeLinear", constant, scale, node, axis=grid.axis, dtype=scale_dtype(node))
    edits.replace(node.outputs[0], new)
