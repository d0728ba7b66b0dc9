"""Dynamic int8: weights are quantized beforehand, activations when they are known, one scale per run and tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from enginery.errors import UsageError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.grid import weight_grid
from enginery.passes.quantize.options import QuantizeOptions, choose
from enginery.passes.quantize.plan import names_of
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import has_constant_weight, output_axis, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def quantize_dynamically(graph: gs.Graph, policy: Policy, options: QuantizeOptions) -> PassResult:
    """Turn every MatMul with a constant weight of rank 2 into com.microsoft DynamicQuantizeMatMul, in place.

    Raises:
        UsageError: the policy's runtime has no dynamic kernels.
    """
    if not policy.name.startswith("onnxruntime"):
        raise UsageError(
            f"Policy {policy.name!r} has no dynamic int8: TensorRT refuses DynamicQuantizeLinear. "
            "Use `int8` with calibration data, or `int8-weight`."
        )
    refusals: list[Refusal] = []
    changed: list[str] = []
    for node in graph.nodes:
        if node.op != "MatMul":
            continue
        choice = choose(policy, node.op, options.for_node(*names_of(node)))
        reason = _why_not(node, quantize=choice.quantize)
        if reason is not None:
            refusals.append(Refusal(names_of(node)[0], reason))
            continue
        _convert(node, per_channel=choice.per_channel)
        changed.append(names_of(node)[0])
    return PassResult(len(changed), tuple(refusals), {"integer": changed})


def _why_not(node: gs.Node, *, quantize: bool) -> str | None:
    if not quantize:
        return "kept in float: an option names it"
    if not has_constant_weight(node):
        return "its weight is computed, not constant"
    if len(weight_of(node).shape) != 2:
        return f"its weight has rank {len(weight_of(node).shape)}; rank 2 is needed"
    return None


def _convert(node: gs.Node, *, per_channel: bool) -> None:
    import onnx_graphsurgeon as gs

    weight = values(weight_of(node)).astype(np.float32)
    grid = weight_grid(weight, output_axis(node) if per_channel else None)
    name = node.outputs[0].name
    node.op, node.domain = "DynamicQuantizeMatMul", "com.microsoft"
    cast("Any", node).inputs = [
        node.inputs[0],
        gs.Constant(f"{name}/weight", grid.quantize(weight).astype(np.int8)),
        gs.Constant(f"{name}/weight_scale", np.asarray(grid.scale)),
        gs.Constant(f"{name}/weight_zero_point", np.zeros(grid.scale.shape, np.int8)),
    ]
