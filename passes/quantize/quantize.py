"""Quantizes an ONNX file for one target."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from enginery.errors import InvalidModelError, StatisticsError
from enginery.passes.base import OpenModel, PassResult, Refusal
from enginery.passes.calibration.batches import Batches, kept
from enginery.passes.calibration.digest import graph_digest
from enginery.passes.calibration.exposed import COMPUTE
from enginery.passes.calibration.observers import make_observer
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.quantize.context import MOST_BATCHES, QuantizeContext
from enginery.passes.quantize.dynamic import quantize_dynamically
from enginery.passes.quantize.explain import explain_nodes, snr_along_depth
from enginery.passes.quantize.fold import fold
from enginery.passes.quantize.options import NodeOverride, QuantizeOptions
from enginery.passes.quantize.plan import names_of
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.remedies import treat
from enginery.passes.quantize.weight_only import quantize_weights
from enginery.passes.quantize.weights import has_constant_weight, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

UNMATCHED = "named in `keep_float` or `overrides`, and no node, module or weight of this graph is called so"


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
        InvalidModelError: the model is not float32, or its opset has no Q/DQ pairs per channel.
    """
    from enginery.passes.graph.ir import save_graph

    unmatched = _unmatched(_quantizable(model, options), options)
    if options.mode != "int8":
        found = _without_statistics(model, output, policy, options)
        return replace(found, refusals=(*found.refusals, *unmatched))
    if statistics is None:
        raise StatisticsError("Static int8 needs statistics and got none. Run `enginery calibrate` first.")
    statistics.require_graph(graph_digest(model))
    if not statistics.complete:
        raise StatisticsError("The statistics are of an interrupted run. Run the same `enginery calibrate` again.")
    with tempfile.TemporaryDirectory(prefix="enginery-quantize-") as folder:
        context = QuantizeContext(
            policy=policy,
            options=options,
            observer=make_observer(options.observer, options.percentile),
            tensors=dict(statistics.tensors),
            open_model=open_model,
            batches=kept(batches, MOST_BATCHES) if batches is not None else None,
            workdir=Path(folder),
            masks=statistics.masks,
        )
        treated = treat(model, context)
        details = explain_nodes(treated.graph, treated.plan, statistics.tensors)
        fold(treated.graph, policy)
        save_graph(treated.graph, output)
        if batches is not None and context.float_model is not None:
            details["depth"] = snr_along_depth(context.float_model, output, context)
    plan = treated.plan
    details |= {
        "integer": plan.integer(),
        "pairs": treated.pairs,
        "tables": dict(treated.tables.details),
        "remedies": [step.to_json() for step in treated.steps],
    }
    return PassResult(len(plan.integer()), (*plan.refusals, *treated.tables.refusals, *unmatched), details)


def _unmatched(graph: gs.Graph, options: QuantizeOptions) -> tuple[Refusal, ...]:
    """What `keep_float` and `overrides` name and the graph has not: another target's graph may, or it is a mistake."""
    names = [names_of(node) for node in graph.nodes]
    return tuple(
        Refusal(pattern, UNMATCHED)
        for pattern in options.patterns
        if not any(NodeOverride(pattern).matches(*each) for each in names)
    )


def _quantizable(model: Path, options: QuantizeOptions) -> gs.Graph:
    from enginery.passes.graph.ir import load_graph
    from enginery.passes.graph.opset import LEAST, raise_opset

    graph = load_graph(model)
    heavy = (node for node in graph.nodes if node.op in COMPUTE and has_constant_weight(node))
    other = next((node for node in heavy if weight_of(node).dtype != np.float32), None)
    if other is not None:
        raise InvalidModelError(
            f"{options.mode} begins from a float32 model, and the weight of {names_of(other)[0]!r} is "
            f"{np.dtype(weight_of(other).dtype).name}. Export the model in float32."
        )
    if options.mode == "int8" and graph.opset < LEAST:
        old = graph.opset
        reason = raise_opset(graph, LEAST) or f"add raise-opset{{version={LEAST}}} to `graph_passes`"
        raise InvalidModelError(f"Q/DQ pairs per channel need opset {LEAST}, and the model has {old}: {reason}.")
    return graph


def _without_statistics(model: Path, output: Path, policy: Policy, options: QuantizeOptions) -> PassResult:
    """Dynamic and weight-only modes, which look at weights alone."""
    from enginery.passes.graph.ir import load_graph, save_graph

    graph = load_graph(model)
    convert = quantize_dynamically if options.mode == "int8-dynamic" else quantize_weights
    result = convert(graph, policy, options)
    save_graph(graph, output)
    return result
