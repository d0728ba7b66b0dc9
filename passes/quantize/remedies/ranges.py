"""Activation ranges between convolutions, cut where that costs least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from enginery.passes.base import PassResult, Refusal
from enginery.passes.calibration.histogram import distribution
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.grid import activation_grid
from enginery.passes.quantize.plan import Plan, make_plan

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

SHARES = np.linspace(1.0, 0.2, 41)
"""Shares of each end of the range that are tried."""

COUNTED = 64
"""About how many samples a histogram is counted on: their range is known, and a tensor has thousands of values each."""


@dataclass(frozen=True)
class ClipActivations:
    """Narrows the range of each tensor around a convolution to the one with the least mean squared error.

    The error is that of the policy's own grid: where zero is in the middle, a tensor behind a Relu has half the levels,
    and gains more from a narrow range. The `mse` observer knows no policy.

    1. Inputs of quantized convolutions take part, and every tensor that a pair stands behind.
    2. Both ends are cut by one share first, then each end alone.
    3. A tensor that another remedy rescaled is counted anew, on `COUNTED` samples of those that remedies fit on.
    4. Inputs of linear layers are left alone: their outlier channels are few and matter (`split-outliers`, `smooth`).
    """

    name: ClassVar[str] = "clip-activations"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 0.2

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the statistics in `context`; the graph stays as it is."""
        plan = make_plan(graph, context.policy, context.options, context.tensors)
        names = _between_convolutions(plan)
        if not names:
            return PassResult(refusals=(Refusal("graph", "no convolution is quantized"),))
        context.count_anew(graph, names, COUNTED)
        details: dict[str, Any] = {}
        refusals: list[Refusal] = []
        for name in names:
            statistics = context.tensors[name]
            low, high = best_range(statistics, context, symmetric=plan.symmetric[name])
            if (low, high) == (statistics.low, statistics.high):
                refusals.append(Refusal(name, "no narrower range lowers the error"))
                continue
            details[name] = {"seen": [statistics.low, statistics.high], "kept": [low, high]}
            context.tensors[name] = statistics.clipped(low, high)
        return PassResult(len(details), tuple(refusals), {"tensors": details})


def best_range(statistics: TensorStatistics, context: QuantizeContext, *, symmetric: bool) -> tuple[float, float]:
    """The range inside the one seen whose grid reproduces the histogram with the least mean squared error."""
    values, counts = distribution(statistics.histogram)
    low, high = statistics.low, statistics.high

    def error(a: np.float64, b: np.float64) -> float:
        grid = activation_grid(low * a, high * b, context.policy.activation, symmetric=symmetric)
        return float(counts @ np.square(values - grid.round_trip(values)))

    both = min(SHARES, key=lambda share: error(share, share))
    top = min(SHARES, key=lambda share: error(both, share))
    bottom = min(SHARES, key=lambda share: error(share, top))
    return float(low * bottom), float(high * top)


def _between_convolutions(plan: Plan) -> Sequence[str]:
    inputs = (node.inputs[index].name for node, index in plan.inputs if node.op not in ("MatMul", "Gemm"))
    return list(dict.fromkeys((*plan.outputs, *inputs)))
