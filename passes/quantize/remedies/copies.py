"""Copies of hidden channels, so that their weights need not be large.

SmoothQuant moves a channel's range into its weights. A channel that is huge for one token only (MiniLM's first layers
answer 25 to the first token, and 0 to all others) takes the whole weight grid with it. Computed n times, each copy
carries an n-th of the weight: the outlier channel splitting of Zhao et al. 2019 ("Improving neural network quantization
without retraining using outlier channel splitting"), in its form for weights. Where a linear layer makes the tensor,
a copy is one more output of it, and nothing else changes in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from enginery.passes.graph.weights import is_known
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.remedies.scaling import Scaled, Scaling, search
from enginery.passes.quantize.weights import (
    constant_at,
    has_constant_weight,
    input_axis,
    output_axis,
    replace_constant,
    values,
)

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

POINTWISE = frozenset(
    {"Gelu", "FastGelu", "QuickGelu", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Mish", "HardSwish", "HardSigmoid"}
    | {"Sigmoid", "Tanh", "Softplus", "Softsign", "Erf"}
)
"""Functions of one tensor that treat all channels alike."""


@dataclass(frozen=True)
class Maker:
    """What makes a tensor: the linear layer, its bias where that is a node of its own, and functions behind."""

    linear: gs.Node
    bias: gs.Node | None
    functions: tuple[gs.Node, ...]

    @property
    def tensors(self) -> list[gs.Tensor]:
        """Every tensor whose channels are those of the one that is made, which is the last."""
        nodes = [self.linear, *([self.bias] if self.bias is not None else []), *self.functions]
        return [node.outputs[0] for node in nodes]


def maker_of(graph: gs.Graph, users: Sequence[gs.Node]) -> Maker | None:
    """The linear layer behind a tensor that `users` alone read; None where there is none, or others see its result."""
    tensor = users[0].inputs[0]
    if len(tensor.outputs) != len(users):
        return None
    functions: list[gs.Node] = []
    while tensor.inputs and tensor.inputs[0].op in POINTWISE:
        functions.insert(0, tensor.inputs[0])
        tensor = tensor.inputs[0].inputs[0]
    bias = tensor.inputs[0] if tensor.inputs and tensor.inputs[0].op == "Add" else None
    if bias is not None:
        data = [index for index, part in enumerate(bias.inputs) if not is_known(part)]
        if len(data) != 1 or list(bias.inputs[1 - data[0]].shape[-1:]) != list(tensor.shape or ())[-1:]:
            return None
        tensor = bias.inputs[data[0]]
    linear = tensor.inputs[0] if tensor.inputs else None
    if linear is None or linear.op not in ("MatMul", "Gemm") or not has_constant_weight(linear):
        return None
    if not is_known(linear.inputs[1]):
        return None
    if linear.op == "Gemm" and len(linear.inputs) > 2 and not is_known(linear.inputs[2]):
        return None
    maker = Maker(linear, bias, tuple(functions))
    shown = {id(output) for output in graph.outputs}
    inner = maker.tensors[:-1]
    seen = any(id(each) in shown for each in maker.tensors) or any(len(each.outputs) != 1 for each in inner)
    return None if seen else maker


def with_copies(
    maker: Maker, scaled: Scaled, context: QuantizeContext, alphas: Sequence[float], count: int, least_gain: float
) -> tuple[Scaled, Scaling, dict[int, int]]:
    """Compute channels `count` more times in all, if the users' outputs gain `least_gain` dB or more beyond scaling.

    Returns:
        What is scaled now, the best scaling of it, and how often each copied channel is computed. Where copies would
        not gain enough, there are none, and the graph is as it was.
    """
    plain = search(scaled, context, alphas)
    times = _choose(scaled, count)
    index = np.concatenate([np.arange(len(times)), np.repeat(np.arange(len(times)), times - 1)])
    undo = _edit(maker, scaled.users, times, index)
    rows = [each[:, :, index] for each in scaled.rows]
    copied = replace(scaled, statistics=scaled.statistics.taken(index), rows=rows)
    found = search(copied, context, alphas)
    if found.after - plain.after < least_gain:
        undo()
        return scaled, plain, {}
    for tensor in maker.tensors:
        if tensor.name in context.tensors:
            context.tensors[tensor.name] = context.tensors[tensor.name].taken(index)
    copies = {int(channel): int(times[channel]) for channel in np.flatnonzero(times > 1)}
    return copied, replace(found, before=plain.before), copies


def _choose(scaled: Scaled, count: int) -> npt.NDArray[np.int64]:
    """How often to compute each channel: again and again the one whose share of the smoothed weights is largest."""
    reach = scaled.reach() * scaled.weight_absmax
    times = np.ones(len(reach), np.int64)
    for _ in range(count):
        times[np.argmax(reach / times)] += 1
    return times


def _edit(
    maker: Maker, users: Sequence[gs.Node], times: npt.NDArray[np.int64], index: npt.NDArray[np.int64]
) -> Callable[[], None]:
    """Copy outputs of the maker, and share out the weights of the users; returns how to undo it."""
    nodes = [maker.linear, *([maker.bias] if maker.bias is not None else []), *users]
    inputs = [list(node.inputs) for node in nodes]
    shapes = [tensor.shape for tensor in maker.tensors]

    def put(node: gs.Node, at: int, array: npt.NDArray[Any]) -> None:
        replace_constant(node, at, array.astype(constant_at(node, at).dtype), "copied")

    put(maker.linear, 1, values(constant_at(maker.linear, 1)).take(index, axis=output_axis(maker.linear)))
    biased = maker.linear if maker.linear.op == "Gemm" and len(maker.linear.inputs) > 2 else maker.bias
    if biased is not None:
        at = 2 if biased is maker.linear else next(i for i, part in enumerate(biased.inputs) if is_known(part))
        array = values(constant_at(biased, at))
        put(biased, at, array.take(index, axis=-1) if array.shape[-1] == len(times) else array)
    for user in users:
        axis = input_axis(user)
        shape = [1, 1]
        shape[axis] = -1
        put(user, 1, values(constant_at(user, 1)).take(index, axis=axis) / times[index].reshape(shape))
    for tensor, shape in zip(maker.tensors, shapes, strict=True):
        tensor.shape = [*shape[:-1], len(index)] if shape else shape

    def undo() -> None:
        for node, before in zip(nodes, inputs, strict=True):
            for at, tensor in enumerate(before):
                node.inputs[at] = tensor
        for tensor, shape in zip(maker.tensors, shapes, strict=True):
            tensor.shape = shape

    return undo
