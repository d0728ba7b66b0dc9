"""Raising the opset of a model, from 13 on, where no operator in it changed its meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from enginery.passes.graph.edit import Names, label
from enginery.passes.graph.ir import all_graphs

if TYPE_CHECKING:
    Adapter = Callable[[gs.Node, Names], None]

OLDEST = 13
"""Before opset 13 too many operators moved attributes to inputs; the exporter does that better."""

_IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 12}


def raise_opset(model: gs.Graph, version: int) -> str | None:
    """Raise the default domain of the model to `version`.

    Operators between the two versions mostly gained types. Those that changed their meaning are rewritten by an
    adapter, or the whole model is left as it was.

    Returns:
        None when the model has at least that opset now, else why not, naming the node.
    """
    if model.opset >= version:
        return None
    if model.opset < OLDEST:
        return f"opset {model.opset} is older than {OLDEST}; export the model with a newer opset"
    work: list[tuple[Adapter, gs.Node]] = []
    for graph in all_graphs(model):
        for node in graph.nodes:
            for (op, since), adapter in _CHANGED.items():
                if not node.domain and node.op == op and model.opset < since <= version:
                    if isinstance(adapter, str):
                        return f"{label(node)!r}: {op} changed its meaning in opset {since}: {adapter}"
                    work.append((adapter, node))
            if reason := _unknown(node, model.opset, version):
                return reason
    names = Names(model)
    for adapter, node in work:
        adapter(node, names)
    _set_opset(model, version)
    return None


def _unknown(node: gs.Node, old: int, new: int) -> str | None:
    """Operators that ended between the two versions have no form in the new one."""
    if node.domain:
        return None
    try:
        schema = onnx.defs.get_schema(node.op, new, "")
    except onnx.defs.SchemaError:
        return f"{label(node)!r}: {node.op} is unknown in opset {new}"
    return f"{label(node)!r}: {node.op} ended before opset {new}" if schema.deprecated and old < new else None


def _set_opset(model: gs.Graph, version: int) -> None:
    for graph in all_graphs(model):
        graph.opset = version
    for entry in model.import_domains:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    model.ir_version = max(model.ir_version or 0, _IR_VERSIONS.get(version, 0))


def _axes_to_input(node: gs.Node, names: Names) -> None:
    axes = node.attrs.pop("axes", None)
    if axes is not None:
        node.inputs.append(gs.Constant(names.fresh(f"{label(node)}/axes"), np.array(axes, np.int64)))


def _count_outputs(node: gs.Node, names: Names) -> None:
    del names
    if len(node.inputs) < 2 or node.inputs[1].is_empty():
        node.attrs["num_outputs"] = len(node.outputs)


def _rename_mode(node: gs.Node, names: Names) -> None:
    del names
    mode = node.attrs.get("mode", "bilinear")
    node.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_CHANGED: dict[tuple[str, int], Adapter | str] = {
    **{(f"Reduce{kind}", 18): _axes_to_input for kind in _REDUCTIONS},
    ("Split", 18): _count_outputs,
    ("GridSample", 20): _rename_mode,
    ("DFT", 20): "its axis became an input",
    ("GroupNormalization", 21): "its scale and bias went from groups to channels",
}
"""Operators that changed their meaning since opset 13: what rewrites them, or why they are left."""
