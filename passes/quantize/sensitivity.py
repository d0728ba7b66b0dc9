"""Which nodes lose the accuracy: each quantized alone, and each left out."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from enginery.passes.base import Feeds, OpenModel
from enginery.passes.calibration.batches import Batches
from enginery.passes.calibration.observers import make_observer
from enginery.passes.calibration.statistics import Statistics
from enginery.passes.calibration.sweep import Calibrated
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.fidelity import Reference
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.place import place
from enginery.passes.quantize.plan import make_plan, names_of
from enginery.passes.quantize.policy import Policy
from enginery.passes.quantize.remedies.bias import folded_fidelity


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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(tuple(NodeSensitivity(**node) for node in value["nodes"]), value["all_quantized_db"])


def measure_sensitivity(
    model: Path,
    statistics: Statistics,
    *,
    policy: Policy,
    options: QuantizeOptions,
    open_model: OpenModel,
    batches: Batches,
    most_samples: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Quantize each node alone, and all but each; no remedies are applied.

    Runs the model 2 n + 1 times over about `most_samples` samples, n being the number of quantized nodes.
    """
    from enginery.passes.graph.ir import load_graph

    inside = Calibrated.open(model, open_model, statistics.masks)
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
        )
        reference = Reference.record(model, context, first_samples(inside, batches(), most_samples))

        def score(floating: Sequence[str]) -> float:
            graph = load_graph(model)
            trial = options.keeping_float(*map(re.escape, floating))
            plan = make_plan(graph, policy, trial, context.tensors)
            place(graph, plan, policy, context.observer, context.tensors)
            return folded_fidelity(graph, replace(context, options=trial), reference).median

        plan = make_plan(load_graph(model), policy, options, context.tensors)
        names = [names_of(node)[0] for node, _ in plan.compute]
        found: list[NodeSensitivity] = []
        for index, name in enumerate(names):
            found.append(NodeSensitivity(name, score([other for other in names if other != name]), score([name])))
            if progress is not None:
                progress(index + 1, len(names))
        ranked = sorted(found, key=lambda node: (-node.without, node.alone, node.node))
        return Sensitivity(tuple(ranked), score([]))


def first_samples(inside: Calibrated, batches: Iterable[Feeds], most: int) -> Iterator[Feeds]:
    """Batches until `most` samples are reached; the last one is cut where the model takes fewer."""
    left = most
    for feeds in batches:
        if left <= 0:
            return
        yield inside.first(feeds, left)
        left -= max((array.shape[0] for array in feeds.values() if array.ndim), default=1)
