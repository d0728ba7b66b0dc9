"""Embedding tables in int8: rows are looked up as integers, and get their scale behind the lookup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph.weights import is_known
from enginery.passes.quantize.grid import LIMITS
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.plan import names_of
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.weights import constant_at, values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

LEAST = 1 << 16
"""Values from which on a table is worth three more small nodes."""


def quantize_tables(graph: gs.Graph, policy: Policy, options: QuantizeOptions) -> PassResult:
    """Store large lookup tables as int8, in place, where the policy says so.

    1. A Gather along the first axis of a constant float matrix with `LEAST` values or more takes part.
    2. Each row has a scale of its own, its largest magnitude over 127: rows of rare words are small, and one scale for
       all would leave them few steps. The scale is looked up like the row, so that nothing but the rows of one run is
       ever computed in float.
    3. A table that something else reads too, such as the output layer of a language model, stays: it would be stored
       twice. So does one whose name or lookup the options keep in float.
    """
    if not policy.tables:
        return PassResult()
    refusals: list[Refusal] = []
    changed: dict[str, dict[str, int]] = {}
    made: dict[str, tuple[gs.Constant, gs.Constant]] = {}
    for node in [each for each in graph.nodes if _is_lookup(each)]:
        table = node.inputs[0]
        reason = _why_not(node, options)
        if reason is not None:
            refusals.append(Refusal(node.name or table.name, reason))
            continue
        if table.name not in made:
            made[table.name] = _integers(constant_at(node, 0))
        integers, scales = made[table.name]
        _look_up(graph, node, integers, scales)
        shape = tuple(map(int, table.shape or ()))
        changed[table.name] = {"float_bytes": 4 * shape[0] * shape[1], "bytes": shape[0] * (shape[1] + 4)}
    return PassResult(len(changed), tuple(refusals), changed)


def _is_lookup(node: gs.Node) -> bool:
    if node.op != "Gather" or node.attrs.get("axis", 0) != 0 or not is_known(node.inputs[0]):
        return False
    shape = node.inputs[0].shape or ()
    return len(shape) == 2 and int(np.prod(shape)) >= LEAST and node.inputs[0].dtype == np.float32


def _why_not(node: gs.Node, options: QuantizeOptions) -> str | None:
    table = node.inputs[0]
    if options.for_node(*names_of(node), table.name).quantize is False:
        return "kept in float: an option names it"
    if not all(_is_lookup(user) and user.inputs[0] is table for user in table.outputs):
        return f"its table {table.name!r} has other readers: it would be stored twice"
    return None


def _integers(table: gs.Constant) -> tuple[gs.Constant, gs.Constant]:
    """The table as int8 [V, H], and its scales, float32 [V, 1]."""
    import onnx_graphsurgeon as gs

    rows = values(table)
    high = LIMITS["int8"][1]
    scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(high)
    integers = np.clip(np.rint(rows / scales), -high, high).astype(np.int8)
    return gs.Constant(f"{table.name}/quantized", integers), gs.Constant(f"{table.name}/scales", scales)


def _look_up(graph: gs.Graph, node: gs.Node, integers: gs.Constant, scales: gs.Constant) -> None:
    """Replace a lookup by that of the integers, times that of the scales."""
    import onnx
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Names

    names, output, index = Names(graph), node.outputs[0], node.inputs[1]
    shape = list(output.shape) if output.shape is not None else None
    parts = {
        "integers": gs.Variable(names.fresh(f"{output.name}/integers"), np.int8, shape),
        "rows": gs.Variable(names.fresh(f"{output.name}/rows"), np.float32, shape),
        "scales": gs.Variable(names.fresh(f"{output.name}/scales"), np.float32, [*shape[:-1], 1] if shape else None),
    }
    title, to = node.name or output.name, {"to": int(onnx.TensorProto.FLOAT)}
    node.outputs.clear()
    node.inputs.clear()
    made = [
        gs.Node("Gather", names.fresh(f"{title}/integers"), {"axis": 0}, [integers, index], [parts["integers"]]),
        gs.Node("Cast", names.fresh(f"{title}/rows"), to, [parts["integers"]], [parts["rows"]]),
        gs.Node("Gather", names.fresh(f"{title}/scales"), {"axis": 0}, [scales, index], [parts["scales"]]),
        gs.Node("Mul", names.fresh(f"{title}/scaled"), {}, [parts["rows"], parts["scales"]], [output]),
    ]
    at = next(place for place, each in enumerate(graph.nodes) if each is node)
    graph.nodes[at : at + 1] = made
