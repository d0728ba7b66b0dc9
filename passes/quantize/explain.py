"""What the report says of a quantized model: which nodes are integers, their share of the work, where accuracy goes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.passes.calibration.exposed import COMPUTE
from enginery.passes.calibration.sweep import Calibrated
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.fidelity import sample_snr
from enginery.passes.quantize.plan import Plan, names_of
from enginery.passes.quantize.weights import has_constant_weight, input_axis, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def explain_nodes(graph: gs.Graph, plan: Plan, tensors: Mapping[str, TensorStatistics]) -> dict[str, Any]:
    """Every compute node with `precision` int8 or float, `why` where it is float, and its share of the work.

    `macs` counts multiply-accumulates per sample, from the number of values that calibration saw; None where unknown.
    `coverage` is the integer nodes' share of all known ones.
    """
    integer = set(plan.integer())
    why = {refusal.node: refusal.reason for refusal in plan.refusals}
    nodes: list[dict[str, Any]] = []
    for node in graph.nodes:
        name = names_of(node)[0]
        if node.op in COMPUTE:
            entry = {"node": name, "op": node.op, "precision": "int8" if name in integer else "float"}
            nodes.append(entry | {"why": None if name in integer else why.get(name), "macs": work_of(node, tensors)})
    known = [(entry["macs"], entry["precision"] == "int8") for entry in nodes if entry["macs"] is not None]
    total = sum(macs for macs, _ in known)
    done = sum(macs for macs, is_integer in known if is_integer)
    return {"nodes": nodes, "coverage": done / total if total else 0.0}


def snr_along_depth(
    float_model: Path, quantized: Path, context: QuantizeContext, most: int = 4, samples: int = 2
) -> list[dict[str, Any]]:
    """Median per-sample SNR in dB of every compute node's output, in graph order.

    Over the first `samples` samples of `most` held-out batches.
    """
    models = [Calibrated.open(path, context.open_model, context.masks) for path in (float_model, quantized)]
    outputs = [
        {node.name: node.output[0] for node in model.graph.graph.node if node.op_type in COMPUTE} for model in models
    ]
    shared = [(name, outputs[0][name], outputs[1][name]) for name in outputs[0] if name in outputs[1]]
    if not shared:
        return []
    runs = [
        model.expose(context.workdir / f"depth-{index}.onnx", [pair[index + 1] for pair in shared])
        for index, model in enumerate(models)
    ]
    ratios: dict[str, list[Any]] = {name: [] for name, _, _ in shared}
    for whole in islice(context.held_out(), most):
        feeds = models[0].first(whole, samples)
        expected, found = (run(feeds) for run in runs)
        for name, exact, rounded in shared:
            mask = models[0].mask(exact, expected[exact].ndim, feeds)
            ratios[name].append(sample_snr(expected[exact], found[rounded], mask))
    return [
        {"node": name, "snr_db": round(float(np.median(np.concatenate(parts))), 2)} for name, parts in ratios.items()
    ]


def work_of(node: gs.Node, tensors: Mapping[str, TensorStatistics]) -> int | None:
    """Multiply-accumulates over the whole calibration run, or None without statistics of the output."""
    statistics = tensors.get(node.outputs[0].name)
    if statistics is None or not has_constant_weight(node):
        return None
    weight = weight_of(node).shape
    reduced = weight[input_axis(node)] * (int(np.prod(weight[2:])) if node.op == "Conv" else 1)
    return int(statistics.count) * int(reduced)
