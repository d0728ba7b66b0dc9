"""Bias correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.fidelity import Fidelity, Reference
from enginery.passes.quantize.fold import fold
from enginery.passes.quantize.layers import is_plain, matrix_of, sample_rows
from enginery.passes.quantize.pairs import constant_bias, correct_bias, grid_of, has_weight_pair, weight_pair
from enginery.passes.quantize.weights import values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class CorrectBias:
    """Takes the mean error of each output channel out of the bias.

    Rounded weights shift the mean of an output by E[x] (W - Q); filters that nearly cancel a large mean input suffer
    most. From Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", with E[x]
    measured on the inputs that the quantized model produces.

    1. Conv and Gemm with a constant bias take part; those without one are refused.
    2. A bias is corrected for the error of its own layer only: that of the layers before is corrected there.
    3. The result is the float model's bias plus the shift, whatever another remedy did to the bias before.
    """

    name: ClassVar[str] = "correct-bias"
    when: ClassVar[Literal["before", "after"]] = "after"
    worth: ClassVar[float] = 0.1

    rows: int = 2048

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the graph with Q/DQ pairs in place: its biases are still float."""
        nodes = [node for node in graph.nodes if has_weight_pair(node) and is_plain(node)]
        able = [node for node in nodes if constant_bias(node) is not None]
        refusals = [Refusal(node.name, "no constant bias") for node in nodes if constant_bias(node) is None]
        if not able:
            return PassResult(refusals=tuple(refusals))
        inside = context.open_folded(graph, self.name)
        sampled = sample_rows(inside, able, context.fitting(), rows=self.rows, seed=context.seed)
        exact = context.float_nodes()
        details: dict[str, Any] = {}
        for node in able:
            weight = values(weight_of(exact[node.name])).astype(np.float64)
            lost = matrix_of(node, weight - grid_of(weight_pair(node)).round_trip(values(weight_of(node))))
            mean = sampled[node.outputs[0].name].mean(axis=1, dtype=np.float64)
            shift = np.einsum("gk,gkm->gm", mean, lost).reshape(-1)
            correct_bias(node, exact[node.name], shift)
            details[node.name] = {"largest_shift": float(np.abs(shift).max())}
        return PassResult(len(details), tuple(refusals), {"layers": details})


def corrected_fidelity(graph: gs.Graph, context: QuantizeContext, reference: Reference) -> Fidelity:
    """The fidelity of a graph with Q/DQ pairs once its biases are corrected; the graph is edited."""
    CorrectBias(rows=512).apply(graph, context)
    return folded_fidelity(graph, context, reference)


def folded_fidelity(graph: gs.Graph, context: QuantizeContext, reference: Reference) -> Fidelity:
    """The fidelity of a graph with Q/DQ pairs as it would ship, with integer weights; the graph is edited."""
    fold(graph, context.policy)
    path = context.write(graph, "folded")
    found = reference.measure(path, context)
    path.unlink()
    return found
