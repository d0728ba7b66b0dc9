"""Per-channel scales: TensorRT computes in integers with one scale per output channel of a weight, and none else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.conformance.base import Match, Rule, Severity
from enginery.passes.graph.conformance.grids import (
    Grid,
    consumers,
    grid_of,
    is_dequantize,
    is_quantize,
    linear,
    real_values,
    requantize,
    scale_dtype,
)
from enginery.passes.graph.edit import label
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


class PerChannelActivation(Rule):
    """Activations with a scale per channel. They build, and the operator behind them runs in float.

    Fixed by the largest of the scales for the whole tensor, which covers every channel's range.
    """

    name: ClassVar[str] = "per-channel-activation"
    severity: ClassVar[Severity] = "warning"
    remedy: ClassVar[str] = "use the largest of the scales for the whole tensor"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            variable = not is_known(node.inputs[0]) if node.inputs else False
            if not variable or not (is_quantize(node) or is_dequantize(node)):
                continue
            grid = grid_of(node)
            if grid is None or grid.scale.size == 1 or not grid.symmetric or grid.dtype != np.int8:
                continue
            reason = f"has {grid.scale.size} scales for an activation; what follows runs in float"
            yield Match(label(node), reason, lambda n=node, g=grid: _one_scale(edits, n, g))


class WrongWeightAxis(Rule):
    """Weights with a scale per index of an axis that is no output channel. They build, and run in float.

    Output channels are axis 0 of Conv, axis 1 of ConvTranspose, the last axis of MatMul, and of Gemm axis 0 with transB
    and axis 1 without. Fixed by requantizing along that axis.
    """

    name: ClassVar[str] = "wrong-weight-axis"
    severity: ClassVar[Severity] = "warning"
    remedy: ClassVar[str] = "requantize along the output channels"

    def matches(self, edits: Edits) -> Iterable[Match]:
        for node in edits.graph.nodes:
            if not is_dequantize(node) or not is_known(node.inputs[0]) or node.inputs[0].shape is None:
                continue
            grid = grid_of(node)
            if grid is None or grid.scale.size == 1 or grid.block or not grid.symmetric or grid.dtype != np.int8:
                continue
            rank = len(node.inputs[0].shape)
            axes = {_channel_axis(user, index, rank) for user, index in consumers(node.outputs[0])}
            right = next(iter(axes), None)
            if len(axes) != 1 or right is None or right == grid.axis % rank:
                continue
            reason = f"has its scales along axis {grid.axis % rank}; the output channels are axis {right}"
            yield Match(label(node), reason, lambda n=node, g=grid, a=right: _along(edits, n, g, a))


def _channel_axis(user: gs.Node, index: int, rank: int) -> int | None:
    if index != 1:
        return None
    if user.op == "Gemm":
        return 0 if user.attrs.get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(user.op)


def _one_scale(edits: Edits, node: gs.Node, grid: Grid) -> None:
    scale = np.asarray(grid.scale.max())
    edits.replace(node.outputs[0], linear(edits, node.op, node.inputs[0], scale, node, dtype=scale_dtype(node)))


def _along(edits: Edits, node: gs.Node, grid: Grid, axis: int) -> None:
    given = node.inputs[0]
    assert is_known(given)
    integers, scale = requantize(real_values(given, grid), axis)
    constant = edits.constant(f"{given.name}/requantized", integers)
    new = linear(edits, "DequantizeLinear", constant, scale, node, axis=axis, dtype=scale_dtype(node))
    edits.replace(node.outputs[0], new)
