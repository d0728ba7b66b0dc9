"""Quantizes an ONNX file for one target."""

from __future__ import annotations

from pathlib import Path

from enginery.errors import StatisticsError
from enginery.passes.base import OpenModel, PassResult
from enginery.passes.calibration.batches import Batches
from enginery.passes.calibration.digest import graph_digest
from enginery.passes.calibration.observers import make_observer
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.quantize.fold import fold
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.place import place
from enginery.passes.quantize.plan import make_plan, names_of
from enginery.passes.quantize.policy import Policy


def quantize_model(
    model: Path,
    output: Path,
    statistics: Statistics | None,
    *,
    policy: Policy,
    options: QuantizeOptions,
    open_model: OpenModel,
    batches: Batches | None,
) -> PassResult:
    """Write the quantized form of `model` to `output`.

    Args:
        model: A float ONNX file.
        output: Where to write.
        statistics: Of exactly this file; static int8 needs them.
        policy: Where Q/DQ pairs go.
        options: Mode, observer, remedies, exceptions.
        open_model: How to run a model; remedies measure with it.
        batches: Calibration data for remedies that run the model.

    Returns:
        How many nodes became integer, which did not and why, and what the remedies gained.

    Raises:
        StatisticsError: statistics are absent, incomplete, or of another graph.
    """
    from enginery.passes.graph.ir import load_graph, save_graph

    if statistics is None:
        raise StatisticsError("Static int8 needs statistics and got none. Run `enginery calibrate` first.")
    statistics.require_graph(graph_digest(model))
    if not statistics.complete:
        raise StatisticsError("The statistics are of an interrupted run. Resume it with `enginery calibrate --resume`.")
    graph = load_graph(model)
    observer = make_observer(options.observer, options.percentile)
    plan = make_plan(graph, policy, options, statistics.tensors)
    pairs = place(graph, plan, policy, observer, statistics.tensors)
    fold(graph, policy)
    save_graph(graph, output)
    integer = [names_of(node)[0] for node, _ in plan.compute]
    return PassResult(len(integer), tuple(plan.refusals), {"integer": integer, "pairs": pairs})
