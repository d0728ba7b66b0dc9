"""Raising the opset of a model, from 7 on, where no operator in it changed its meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from enginery.passes.graph.edit import Names, label
from enginery.passes.graph.ir import all_graphs
from enginery.passes.graph.older_opsets import CHANGES as OLDER_CHANGES
from enginery.passes.graph.older_opsets import Change, axes_to_input, left

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

OLDEST = 7
"""Before opset 7 operators broadcast by attributes, in ways that their successors cannot say."""

LEAST = 13
"""What a model is raised to at least: per-channel Q/DQ pairs and bfloat16 begin there."""

_IR_VERSIONS = {13: 7, 14: 7, **dict.fromkeys(range(15, 19), 8), 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 12}


def raise_opset(model: gs.Graph, version: int) -> str | None:
    """Raise the default domain of the model to `version`, `LEAST` or newer.

    Operators between the two versions mostly gained types. Those that changed their form or meaning are rewritten, or
    the whole model is left as it was.

    Returns:
        None when the model has at least that opset now, else why not, naming the node.
    """
    if model.opset >= version:
        return None
    if model.opset < OLDEST:
        return f"opset {model.opset} is older than {OLDEST}; export the model with a newer one"
    work: list[tuple[Change, gs.Node]] = []
    for graph in all_graphs(model):
        for node in graph.nodes:
            changes = _changes(node, model.opset, version)
            for since, change in changes:
                reason = change.why_not(node)
                if reason is not None:
                    return f"{label(node)!r}: {node.op} changed its meaning in opset {since}: {reason}"
                work.append((change, node))
            if not changes and (reason := _unknown(node, model.opset, version)):
                return reason
    names = Names(model)
    for change, node in work:
        change.rewrite(node, names)
    _set_opset(model, version)
    return None


def _changes(node: gs.Node, old: int, new: int) -> list[tuple[int, Change]]:
    """What happened to the node's operator between two opsets, in order."""
    if node.domain:
        return []
    return [(since, change) for (op, since), change in _CHANGED.items() if node.op == op and old < since <= new]


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


def _count_outputs(node: gs.Node, names: Names) -> None:
    del names
    if len(node.inputs) < 2 or node.inputs[1].is_empty():
        node.attrs["num_outputs"] = len(node.outputs)


def _rename_mode(node: gs.Node, names: Names) -> None:
    del names
    mode = node.attrs.get("mode", "bilinear")
    node.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def _trains(node: gs.Node) -> str | None:
    return "it gives out the statistics of a training step" if len(node.outputs) > 1 else None


def _older_pixels(node: gs.Node, names: Names) -> None:
    del names
    node.attrs["coordinate_transformation_mode"] = "output_half_pixel"


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_CHANGED: dict[tuple[str, int], Change] = {
    **OLDER_CHANGES,
    **{(f"Reduce{kind}", 18): Change(axes_to_input) for kind in _REDUCTIONS},
    ("BatchNormalization", 14): left(_trains),
    ("RoiAlign", 16): Change(_older_pixels),
    ("Split", 18): Change(_count_outputs),
    ("GridSample", 20): Change(_rename_mode),
    ("DFT", 20): left("its axis became an input"),
    ("GroupNormalization", 21): left("its scale and bias went from groups to channels"),
}
"""Operators that changed their form or meaning since opset 7, in order: what rewrites them, or why they are left."""
