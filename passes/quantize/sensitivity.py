"""Which nodes lose the accuracy, and the smallest set of float nodes that wins it back."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from enginery.passes.base import OpenModel
from enginery.passes.calibration.batches import Batches
from enginery.passes.calibration.observers import make_observer
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.fidelity import Reference
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.place import place
from enginery.passes.quantize.plan import make_plan, names_of
from enginery.passes.quantize.policy import Policy


@dataclass(frozen=True)
class NodeSensitivity:
    """What quantizing one node does to the outputs: median per-sample SNR in dB.

    `alone`: this node is quantized and nothing else. `without`: everything is but this node.
    """

    node: str
    alone: float
    without: float


@dataclass(frozen=True)
class Sensitivity:
    """All nodes, those first whose absence gains most. `all_quantized` is the SNR with nothing left out."""

    nodes: tuple[NodeSensitivity, ...]
    all_quantized: float

    def to_json(self) -> dict[str, Any]:
        return {"all_quantized_db": self.all_quantized, "nodes": [vars(node) for node in self.nodes]}


def measure_sensitivity(
    model: Path,
    statistics: Statistics,
    *,
    policy: Policy,
    options: QuantizeOptions,
    open_model: OpenModel,
    batches: Batches,
    most_batches: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Quantize each node alone, and all but each; no remedies are applied.

    Runs the model 2 n + 1 times over `most_batches` batches, n being the number of quantized nodes.
    """
    from enginery.passes.graph.ir import load_graph

    with tempfile.TemporaryDirectory(prefix="enginery-sensitivity-") as folder:
        context = QuantizeContext(
            policy=policy,
            options=options,
            observer=make_observer(options.observer, options.percentile),
            tensors=dict(statistics.tensors),
            open_model=open_model,
            batches=batches,
            workdir=Path(folder),
            masks=statistics.masks,
            most_batches=most_batches,
        )
        reference = Reference.record(model, context)

        def score(floating: Sequence[str]) -> float:
            graph = load_graph(model)
            trial = options.keeping_float(*map(re.escape, floating))
            plan = make_plan(graph, policy, trial, context.tensors)
            place(graph, plan, policy, context.observer, context.tensors)
            path = context.write(graph, "trial")
            snr = reference.measure(path, replace(context, options=trial))
            path.unlink()
            return snr

        plan = make_plan(load_graph(model), policy, options, context.tensors)
        names = [names_of(node)[0] for node, _ in plan.compute]
        found: list[NodeSensitivity] = []
        for index, name in enumerate(names):
            found.append(NodeSensitivity(name, score([other for other in names if other != name]), score([name])))
            if progress is not None:
                progress(index + 1, len(names))
        ranked = sorted(found, key=lambda node: (-node.without, node.alone, node.node))
        return Sensitivity(tuple(ranked), score([]))


@dataclass(frozen=True)
class Trial:
    """One mixed-precision model that was tried: its float nodes, and whether it was good enough."""

    floating: tuple[str, ...]
    accepted: bool


@dataclass(frozen=True)
class MixedPrecision:
    """The result of a search: the options that keep the chosen nodes in float, or None when nothing was enough."""

    options: QuantizeOptions | None
    trials: tuple[Trial, ...]


def search_mixed_precision(
    sensitivity: Sensitivity, options: QuantizeOptions, accept: Callable[[QuantizeOptions], bool]
) -> MixedPrecision:
    """Keep as few of the most sensitive nodes in float as `accept` allows.

    Args:
        sensitivity: Says in which order nodes go back to float.
        options: What the search starts from.
        accept: Quantizes with the given options and says whether the result is good enough: the accuracy gate, a task
            metric's allowed drop, and a latency budget if there is one.

    The number of float nodes is bisected: log2(n) trials, on the assumption that more float nodes are not worse.
    """
    order = [node.node for node in sensitivity.nodes]
    trials: list[Trial] = []

    def works(count: int) -> bool:
        floating = tuple(order[:count])
        accepted = accept(options.keeping_float(*map(re.escape, floating)))
        trials.append(Trial(floating, accepted))
        return accepted

    if works(0):
        return MixedPrecision(options, tuple(trials))
    low, high = 0, len(order)
    if not works(high):
        return MixedPrecision(None, tuple(trials))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return MixedPrecision(options.keeping_float(*map(re.escape, order[:high])), tuple(trials))
