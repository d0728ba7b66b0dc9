"""Which ops compute in half precision, and which of their inputs may be half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SINGLE = frozenset(
    {
        # sums of many terms
        *("CumSum", "Einsum", "GlobalAveragePool", "GlobalLpPool", "ReduceL1", "ReduceL2", "ReduceLogSum"),
        *("ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        # norms and exponentials
        *("BatchNormalization", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
        *("Log", "LogSoftmax", "LpNormalization", "LRN", "MeanVarianceNormalization", "Pow", "Reciprocal"),
        *("RMSNormalization", "Softmax", "Softplus", "Sqrt"),
        # recurrences accumulate their errors; angles and counters need their digits
        *("GRU", "LSTM", "RNN", "Cos", "Range", "Sin"),
        # the scales of Q/DQ pairs belong to the quantization; see case 7 of `ConvertToHalf`
        *("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
    }
)
"""Ops that stay in float32 whatever their inputs."""

FOLLOWS = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape"),
        *("Slice", "SpaceToDepth", "DepthToSpace", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Ops that only move values: they take the precision of what they move."""

_CONTRIB = {"MultiHeadAttention": frozenset({0, 1, 2, 3, 5, 6, 7})}


def half_inputs(node: gs.Node, opset: int, to: str) -> set[int]:
    """The inputs that may be `to` ("float16" or "bfloat16") by the op's schema; empty when the op has no such form."""
    if node.domain == "com.microsoft":
        return set(_CONTRIB.get(node.op, ()))
    if node.domain:
        return set()
    try:
        schema = onnx.defs.get_schema(node.op, opset, "")
    except onnx.defs.SchemaError:
        return set()
    wanted = f"tensor({to})"
    types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    if any(_holds_tensors(types.get(each.type_str, [each.type_str])) for each in (*schema.inputs, *schema.outputs)):
        return set()
    allowed = {name: wanted in each for name, each in types.items()}
    given = schema.inputs
    if not given or (schema.outputs and node.op != "Cast" and not _output_follows(schema, allowed)):
        return set()
    # The last formal input of a variadic op stands for all that follow.
    formal = [given[min(index, len(given) - 1)] for index in range(len(node.inputs))]
    return {index for index, each in enumerate(formal) if allowed.get(each.type_str, False)}


def _holds_tensors(types: Sequence[str]) -> bool:
    """Whether these are sequences, optionals or maps, whose contents have no type that casts could follow."""
    return not any(each.startswith("tensor(") for each in types)


def _output_follows(schema: onnx.defs.OpSchema, allowed: dict[str, bool]) -> bool:
    """Whether some half input decides the type of the first output, or the output is no float at all."""
    kind = schema.outputs[0].type_str
    return (
        kind.startswith("tensor(")
        or any(each.type_str == kind and allowed.get(kind, False) for each in schema.inputs)
        or not allowed.get(kind, True)
    )
