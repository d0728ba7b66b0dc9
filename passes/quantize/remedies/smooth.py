"""SmoothQuant for linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from enginery.errors import UsageError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.calibration.tensor_statistics import TensorStatistics
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.layers import linear_users, sample_rows
from enginery.passes.quantize.plan import make_plan
from enginery.passes.quantize.remedies.copies import maker_of, with_copies
from enginery.passes.quantize.remedies.scaling import ALPHAS, Scaled, Scaling, search
from enginery.passes.quantize.weights import input_axis, replace_constant, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Floats = npt.NDArray[np.floating[Any]]


LEAST_ROOM, MOST_ROOM = 1.5, 4.0
ENOUGH_ROWS = 1 << 14
"""From so many rows on a channel's largest value is known well enough for the least headroom."""


@dataclass(frozen=True)
class Smooth:
    """Divides the channels of a linear layer's input and multiplies the weights, so that outlier channels shrink.

    1. Every linear layer that the policy quantizes takes part; layers that read one tensor (query, key, value) share
       one scaling.
    2. `alpha` is searched per tensor on sampled rows, or given as a number from 0 to 1.
    3. The division is folded into the LayerNormalization, the linear layer or the per-channel Mul that makes the tensor
       if nobody else reads it.
    4. Otherwise it becomes a Mul in front of the layers, a GELU's output included, if it gains `least_gain` dB or more.
    5. Channels are given `headroom`, since other data will exceed what calibration saw. By default it is 1.5 where
       16,384 rows (tokens) or more were seen, and grows as the fifth root of how many fewer there were, to 4 at most.
    6. A tensor that gains less is left alone; the refusal says how much it would have gained.
    7. Where a linear layer makes the tensor, alone or through an activation function, it computes up to `copies` more
       channels, copies of those whose weights would grow largest, if that gains `least_gain` dB beyond smoothing.
    """

    name: ClassVar[str] = "smooth"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 0.1

    alpha: str = "auto"
    least_gain: float = 0.5
    rows: int = 256
    headroom: str = "auto"
    copies: int = 16

    def __post_init__(self) -> None:
        if self.alpha != "auto" and not 0 <= _number(self.alpha) <= 1:
            raise UsageError(f"smooth: alpha is {self.alpha!r}; expected `auto` or a number from 0 to 1.")
        if self.headroom != "auto" and not _number(self.headroom) >= 1:
            raise UsageError(f"smooth: headroom is {self.headroom!r}; expected `auto` or a number from 1 on.")

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the float graph in place."""
        plan = make_plan(graph, context.policy, context.options, context.tensors)
        users = linear_users((node for node, _ in plan.compute), context.tensors)
        if not users:
            return PassResult(refusals=(Refusal("graph", "no linear layer is quantized"),))
        nodes = [node for group in users.values() for node in group]
        sampled = sample_rows(
            context.open_inside(graph, self.name), nodes, context.fitting(), rows=self.rows, seed=context.seed
        )
        alphas = ALPHAS if self.alpha == "auto" else (_number(self.alpha),)
        refusals: list[Refusal] = []
        details: dict[str, Any] = {}
        for name, group in users.items():
            rows = [sampled[node.outputs[0].name] for node in group]
            scaled = Scaled(context.tensors[name], group, rows, headroom=self.room(context.tensors[name]))
            maker = maker_of(graph, group) if self.copies else None
            if maker is not None:
                scaled, best, copies = with_copies(maker, scaled, context, alphas, self.copies, self.least_gain)
            else:
                best, copies = search(scaled, context, alphas), {}
            if best.after - best.before < self.least_gain:
                refusals.append(Refusal(name, f"would gain {best.after - best.before:.2f} dB"))
                continue
            into = _smooth_tensor(graph, group, best.scales, context, scaled.expected())
            details[name] = _describe(best) | {"into": into} | ({"copies": copies} if copies else {})
        return PassResult(len(details), tuple(refusals), {"tensors": details})

    def room(self, statistics: TensorStatistics) -> float:
        """The factor by which a tensor's channels are widened; case 5."""
        if self.headroom != "auto":
            return _number(self.headroom)
        rows = statistics.count / max(1, len(statistics.channel_low))
        return float(np.clip(LEAST_ROOM * (ENOUGH_ROWS / rows) ** 0.2, LEAST_ROOM, MOST_ROOM))


def _smooth_tensor(
    graph: Any, users: Sequence[gs.Node], scales: Floats, context: QuantizeContext, expected: TensorStatistics
) -> str:
    """Carry out one scaling and say where the division went."""
    tensor = users[0].inputs[0]
    for user in users:
        shape = [1, 1]
        shape[input_axis(user)] = -1
        scaled = values(weight_of(user)) * scales.reshape(shape)
        replace_constant(user, 1, scaled.astype(weight_of(user).dtype), "smoothed")
    statistics = expected.scaled(1 / scales)
    all_users = list(tensor.outputs)
    alone = len(all_users) == len(users) and not any(tensor is output for output in graph.outputs)
    if alone and divide_producer(tensor, scales):
        context.tensors[tensor.name] = statistics
        return tensor.inputs[0].op
    smoothed = _insert_mul(graph, users, scales)
    context.tensors[smoothed.name] = statistics
    return "Mul"


def divide_producer(tensor: gs.Tensor, scales: Floats) -> bool:
    """Fold a division by `scales` along the last axis into the node that makes `tensor`; False when it cannot."""
    import onnx_graphsurgeon as gs

    node = tensor.inputs[0] if tensor.inputs else None
    if node is None:
        return False
    if node.op == "LayerNormalization" and node.attrs.get("axis", -1) in (-1, len(tensor.shape or ()) - 1):
        parts = list(range(1, len(node.inputs)))
    elif node.op in ("Add", "Mul") and len(node.inputs) == 2:
        parts = [index for index, part in enumerate(node.inputs) if _is_vector(part, len(scales))]
        if len(parts) != 1:
            return False
        # A bias is divided together with what it is added to; a factor takes the division alone.
        if node.op == "Add":
            other = node.inputs[1 - parts[0]]
            if len(other.outputs) != 1 or not divide_producer(other, scales):
                return False
    elif node.op == "MatMul" and isinstance(node.inputs[1], gs.Constant):
        parts = [1]
    else:
        return False
    if not all(isinstance(node.inputs[index], gs.Constant) for index in parts):
        return False
    for index in parts:
        constant: Any = node.inputs[index]
        replace_constant(node, index, (values(constant) / scales).astype(constant.dtype), "smoothed")
    return True


def _is_vector(tensor: gs.Tensor, size: int) -> bool:
    import onnx_graphsurgeon as gs

    return isinstance(tensor, gs.Constant) and list(tensor.shape[-1:]) == [size] and int(np.prod(tensor.shape)) == size


def _insert_mul(graph: Any, users: Sequence[gs.Node], scales: Floats) -> gs.Variable:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Names

    names = Names(graph)
    tensor = users[0].inputs[0]
    smoothed = gs.Variable(names.fresh(f"{tensor.name}/smoothed"), tensor.dtype, tensor.shape)
    factors = gs.Constant(names.fresh(f"{tensor.name}/smooth"), (1 / scales).astype(tensor.dtype or np.float32))
    name = names.fresh(f"{tensor.name}/Smooth")
    position = min(index for index, node in enumerate(graph.nodes) if any(node is user for user in users))
    graph.nodes.insert(position, gs.Node("Mul", name, inputs=[tensor, factors], outputs=[smoothed]))
    for user in users:
        user.inputs[0] = smoothed
    return smoothed


def _describe(best: Scaling) -> dict[str, Any]:
    return {"alpha": best.alpha, "before_db": round(best.before, 2), "after_db": round(best.after, 2)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
