"""Outlier channels of linear layers, multiplied in float beside the integer product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.layers import linear_users, sample_rows
from enginery.passes.quantize.plan import FLOAT_SIDE, make_plan
from enginery.passes.quantize.remedies.scaling import Scaled, plain_snr, search
from enginery.passes.quantize.weights import input_axis, output_axis, replace_constant, values, weight_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ALPHAS = (0.7, 1.0)
"""What SmoothQuant is tried with, to know what a tensor has to offer without a split."""


@dataclass(frozen=True)
class SplitOutliers:
    """Multiplies the few largest channels of a linear layer's input in float, beside the integer product of the rest.

    The static form of "LLM.int8()" (Dettmers et al. 2022): the channels are chosen once, by calibration. The integer
    product needs no new input: its weights are zero where the channels are, so that they may saturate, and its range
    is that of the other channels. The float side is a Gather, a product of `most` channels at most, and an Add.

    1. Every tensor that only linear layers read as integers takes part; layers that read one tensor (query, key, value)
       share the channels.
    2. A tensor is split if that takes away `least_share` or more of the quantization noise of all linear layers
       together, compared with what SmoothQuant alone would leave; the refusal says how much it would have taken.
    3. The fewest channels are taken, by doubling, that leave `tolerance` of that noise at most beyond the best number.
    4. A tensor that is an integer already when it is made has no float side to split off, and is refused.
    """

    name: ClassVar[str] = "split-outliers"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 1.0

    most: int = 32
    least_share: float = 0.02
    tolerance: float = 0.005
    rows: int = 256

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the float graph in place."""
        plan = make_plan(graph, context.policy, context.options, context.tensors)
        users = linear_users((node for node, _ in plan.compute), context.tensors)
        refusals = [Refusal(name, "it is made as an integer") for name in users if name in plan.outputs]
        users = {name: group for name, group in users.items() if name not in plan.outputs}
        if not users:
            return PassResult(refusals=(*refusals, Refusal("graph", "no linear layer reads a float tensor")))
        nodes = [node for group in users.values() for node in group]
        inside = context.open_inside(graph, self.name)
        sampled = sample_rows(inside, nodes, context.fitting(), rows=self.rows, seed=context.seed)
        tensors = {
            name: Scaled(context.tensors[name], group, [sampled[node.outputs[0].name] for node in group])
            for name, group in users.items()
        }
        details: dict[str, Any] = {}
        before = {name: search(scaled, context, ALPHAS).after for name, scaled in tensors.items()}
        total = sum(map(_noise, before.values()))
        for name, scaled in tensors.items():
            share, found = _noise(before[name]) / total, None
            if share >= self.least_share:
                found = self._search(scaled, context, total)
                share = (_noise(before[name]) - _noise(found.after)) / total
            if found is None or share < self.least_share:
                refusals.append(Refusal(name, f"would take away {max(share, 0.0):.1%} of the noise at most"))
                continue
            split_tensor(graph, scaled.users, found.channels, context)
            details[name] = {
                "channels": list(found.channels),
                "before_db": round(before[name], 2),
                "after_db": round(found.after, 2),
            }
        return PassResult(len(details), tuple(refusals), {"tensors": details})

    def _search(self, scaled: Scaled, context: QuantizeContext, total: float) -> _Split:
        order = np.argsort(-scaled.statistics.channel_absmax, kind="stable")
        trials: list[_Split] = []
        count = 1
        while count <= min(self.most, len(order) - 1):
            channels = tuple(sorted(int(channel) for channel in order[:count]))
            trials.append(_Split(channels, plain_snr(scaled.without(channels), context)))
            count *= 2
        enough = min(_noise(trial.after) for trial in trials) + self.tolerance * total
        return next(trial for trial in trials if _noise(trial.after) <= enough)


@dataclass(frozen=True)
class _Split:
    channels: tuple[int, ...]
    after: float


def split_tensor(graph: Any, users: Sequence[gs.Node], channels: Sequence[int], context: QuantizeContext) -> None:
    """Let every user multiply `channels` of the tensor that they share in float."""
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Names

    names = Names(graph)
    tensor = users[0].inputs[0]
    kept = np.ones(len(context.tensors[tensor.name].channel_low))
    kept[list(channels)] = 0.0
    context.tensors[tensor.name] = context.tensors[tensor.name].scaled(kept)
    shape = [*tensor.shape[:-1], len(channels)] if tensor.shape else None
    outliers = gs.Variable(names.fresh(f"{tensor.name}/outliers"), tensor.dtype, shape)
    index = gs.Constant(names.fresh(f"{tensor.name}/channels"), np.array(channels, np.int64))
    name = names.fresh(f"{tensor.name}/SplitOutliers")
    added = [gs.Node("Gather", name, {"axis": -1}, [tensor, index], [outliers])]
    for user in users:
        added += _float_side(graph, user, outliers, channels, names, context)
    graph.nodes += added
    graph.toposort()


def _float_side(
    graph: Any, user: gs.Node, outliers: gs.Variable, channels: Sequence[int], names: Any, context: QuantizeContext
) -> list[gs.Node]:
    """Zero the channels' weights and add their product behind the user, and behind its bias where an Add has it."""
    import onnx_graphsurgeon as gs

    weight, axis = values(weight_of(user)), input_axis(user)
    part = np.take(weight, list(channels), axis)
    rest = weight.copy()
    rest[(slice(None),) * axis + (list(channels),)] = 0.0
    replace_constant(user, 1, rest, "split")
    end = _behind_bias(graph, user)
    product = gs.Variable(names.fresh(f"{end.name}/outliers"), end.dtype, end.shape)
    factor = gs.Constant(names.fresh(f"{end.name}/float_weight"), part.T.copy() if output_axis(user) == 0 else part)
    matmul = gs.Node("MatMul", names.fresh(f"{end.name}{FLOAT_SIDE}"), {}, [outliers, factor], [product])
    whole = gs.Variable(names.fresh(f"{end.name}/whole"), end.dtype, end.shape)
    _replace_uses(graph, end, whole)
    if end.name in context.tensors:
        context.tensors[whole.name] = context.tensors[end.name]
    return [matmul, gs.Node("Add", names.fresh(f"{end.name}/Join"), {}, [end, product], [whole])]


def _behind_bias(graph: Any, user: gs.Node) -> gs.Tensor:
    """The user's output, or that of the Add of its bias: integer kernels take a bias that stands next to them."""
    import onnx_graphsurgeon as gs

    tensor = user.outputs[0]
    alone = len(tensor.outputs) == 1 and not any(tensor is output for output in graph.outputs)
    if alone and tensor.outputs[0].op == "Add":
        add = tensor.outputs[0]
        if any(isinstance(other, gs.Constant) for other in add.inputs):
            return add.outputs[0]
    return tensor


def _replace_uses(graph: Any, old: gs.Tensor, new: gs.Variable) -> None:
    """Let every user of `old` read `new`. A graph output keeps its name, which the new tensor then takes over."""
    for user in list(old.outputs):
        for index, used in enumerate(user.inputs):
            if used is old:
                user.inputs[index] = new
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
            old.name, new.name = new.name, old.name


def _noise(snr: float) -> float:
    """Noise power relative to the signal's."""
    return float(10 ** (-snr / 10))
