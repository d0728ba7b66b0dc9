"""Which tensors' statistics a policy reads, found by asking it about a graph of which everything is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from enginery.passes.calibration.histogram import Histogram
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.options import QuantizeOptions
from enginery.passes.quantize.plan import make_plan
from enginery.passes.quantize.policy import Policy


def needed_tensors(model: Path, policy: Policy, options: QuantizeOptions) -> tuple[str, ...]:
    """The tensors of an ONNX file that get Q/DQ pairs when nothing is kept in float, sorted.

    `keep_float` is left aside, so that every mixed-precision trial needs the same tensors.
    """
    from enginery.passes.graph.ir import load_graph

    needed: set[str] = set()
    for each in (replace(options, keep_float=()), QuantizeOptions()):
        plan = make_plan(load_graph(model), policy, each, _Known())
        needed |= {node.inputs[index].name for node, index in plan.inputs} | set(plan.outputs)
    return tuple(sorted(needed))


class _Known(Mapping[str, TensorStatistics]):
    """Statistics that hold every tensor, each of one value."""

    def __getitem__(self, name: str) -> TensorStatistics:
        one, nothing = np.ones(1), Histogram.none()
        return TensorStatistics(0.0, 1.0, 1, 1, 0.0, 1.0, 0, one, one, one, nothing, nothing)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
