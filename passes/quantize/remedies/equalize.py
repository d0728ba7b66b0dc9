"""Cross-layer equalization for convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.layers import is_plain, sample_rows
from enginery.passes.quantize.plan import make_plan
from enginery.passes.quantize.remedies.scaling import Scaled, search
from enginery.passes.quantize.weights import groups, replace_constant, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Equalize:
    """Makes the channels between two convolutions alike, so that one scale suits them all.

    1. A tensor takes part if a convolution with constant weights makes it, alone or followed by Relu or Clip from 0,
       zero padding of its positions or MaxPool, and every user of it is a convolution, depthwise ones included.
    2. The convolution before divides its output channels, those behind multiply their input channels. With per-channel
       weights the first costs nothing, and neither does the second where it is depthwise.
    3. ReLU6 is respected: a channel that reaches the cap on the calibration data keeps its scale, others grow to it at
       most, so the same values are clipped as before.
    4. How much of the difference is evened out (alpha) is searched per tensor on sampled patches; a tensor that gains
       less than `least_gain` dB is left alone.
    """

    name: ClassVar[str] = "equalize"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 0.1

    least_gain: float = 0.2
    rows: int = 512

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the float graph in place."""
        plan = make_plan(graph, context.policy, context.options, context.tensors)
        integer = {id(node) for node, _ in plan.compute if node.op == "Conv" and is_plain(node)}
        details: dict[str, Any] = {}
        refusals: list[Refusal] = []
        for node in [node for node, _ in plan.compute if id(node) in integer]:
            link = _link(graph, node, integer)
            if isinstance(link, str):
                refusals.append(Refusal(node.outputs[0].name, link))
                continue
            gained = self._equalize(graph, node, link, context)
            if isinstance(gained, str):
                refusals.append(Refusal(node.outputs[0].name, gained))
            else:
                details[link.tensor.name] = gained
        return PassResult(len(details), tuple(refusals), {"tensors": details})

    def _equalize(self, graph: gs.Graph, node: gs.Node, link: _Link, context: QuantizeContext) -> dict[str, Any] | str:
        # Sampled anew for each tensor: the equalization before changed what flows in.
        inside = context.open_inside(graph, self.name)
        sampled = sample_rows(inside, link.users, context.fitting(), rows=self.rows, seed=context.seed)
        rows = [sampled[user.outputs[0].name] for user in link.users]
        statistics = context.tensors[link.tensor.name]
        best = search(Scaled(statistics, link.users, rows, cap=link.cap), context)
        if best.after - best.before < self.least_gain:
            return f"would gain {best.after - best.before:.2f} dB"
        _divide_outputs(node, best.scales)
        for user in link.users:
            _multiply_inputs(user, best.scales)
        for name in link.way:
            if name in context.tensors:
                context.tensors[name] = context.tensors[name].scaled(1 / best.scales)
        return {"alpha": best.alpha, "before_db": round(best.before, 2), "after_db": round(best.after, 2)}


@dataclass(frozen=True)
class _Link:
    """A tensor between convolutions: what reads it, the cap of its activation function, and all tensors on the way."""

    tensor: gs.Tensor
    users: Sequence[gs.Node]
    cap: float | None
    way: Sequence[str]


def _link(graph: gs.Graph, node: gs.Node, integer: set[int]) -> _Link | str:
    """The link behind a convolution, or why it cannot be equalized."""
    tensor, cap = node.outputs[0], None
    way = [tensor.name]
    if len(tensor.outputs) == 1 and tensor.outputs[0].op in ("Relu", "Clip"):
        activation = tensor.outputs[0]
        if activation.op == "Clip":
            bounds = _bounds(activation)
            if bounds is None or bounds[0] != 0:
                return "its Clip does not start at 0, so that it cannot be scaled"
            cap = bounds[1]
        tensor = activation.outputs[0]
        way.append(tensor.name)
    while len(tensor.outputs) == 1 and _commutes(tensor.outputs[0]):
        tensor = tensor.outputs[0].outputs[0]
        way.append(tensor.name)
    if any(tensor is output for output in graph.outputs):
        return "it makes a graph output"
    if not tensor.outputs or not all(id(user) in integer and user.inputs[0] is tensor for user in tensor.outputs):
        return "not every user of its output is a quantized convolution"
    return _Link(tensor, list(tensor.outputs), cap, way)


def _commutes(node: gs.Node) -> bool:
    """Whether scaling the channels before the node or behind it is the same."""
    if node.op == "MaxPool":
        return len(node.outputs) == 1
    return node.op == "Pad" and node.attrs.get("mode", "constant") == "constant" and _pads_positions_with_zeros(node)


def _pads_positions_with_zeros(pad: gs.Node) -> bool:
    import onnx_graphsurgeon as gs

    parts = list(pad.inputs[1:])
    if len(parts) > 2 or not all(isinstance(part, gs.Constant) for part in parts):
        return False
    pads, *fill = (values(part) for part in parts if isinstance(part, gs.Constant))
    by_axis = pads.reshape(2, -1)
    return by_axis.shape[1] > 2 and not by_axis[:, :2].any() and not any(np.any(each) for each in fill)


def _bounds(clip: gs.Node) -> tuple[float, float] | None:
    import onnx_graphsurgeon as gs

    if len(clip.inputs) != 3 or not all(isinstance(bound, gs.Constant) for bound in clip.inputs[1:]):
        return None
    low, high = (float(values(bound)) for bound in clip.inputs[1:] if isinstance(bound, gs.Constant))
    return low, high


def _divide_outputs(node: gs.Node, scales: Floats) -> None:
    weight = values(weight_of(node))
    shape = [-1, *[1] * (weight.ndim - 1)]
    replace_constant(node, 1, (weight / scales.reshape(shape)).astype(weight.dtype), "equalized")
    if len(node.inputs) > 2:
        bias: Any = node.inputs[2]
        replace_constant(node, 2, (values(bias) / scales).astype(weight.dtype), "equalized")


def _multiply_inputs(node: gs.Node, scales: Floats) -> None:
    weight = values(weight_of(node))
    count = groups(node)
    # Group g of a grouped convolution reads the g-th block of input channels.
    by_group = np.repeat(scales.reshape(count, -1), weight.shape[0] // count, axis=0)
    shape = [*by_group.shape, *[1] * (weight.ndim - 2)]
    replace_constant(node, 1, (weight * by_group.reshape(shape)).astype(weight.dtype), "equalized")
