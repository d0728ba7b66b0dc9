"""Queries, keys and values that fit their grids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph.weights import is_known
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.plan import make_plan
from enginery.passes.quantize.products import product_inputs
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

Floats = npt.NDArray[np.floating[Any]]

_MOVES = ("Reshape", "Transpose")
_LEAST = 1e-3
"""A channel's range counts for no less than this share of the largest: a silent one needs no factor of thousands."""


@dataclass(frozen=True)
class SmoothAttention:
    """Centres and evens out what attention's two products read, where both become integers. It costs nothing to run.

    A grid has one scale for all channels, and softmax's results are coarse on theirs: over many tokens they are a few
    steps each, so that their sum is off by more than any of them, and whatever is common to all values comes out wrong
    by that factor.

    1. The mean of each key channel is taken out of the key layer's bias: it adds the same to all scores of a query,
       which softmax does not see ("SageAttention", Zhang et al. 2024).
    2. The mean of each value channel is taken out of the value layer's bias and given to the bias of the linear layer
       that reads the result: softmax's rows sum to one.
    3. Query and key channels are scaled against each other so that both use their range alike.
    4. Value channels are scaled to one range; the layer that reads the result, or the Mul in front of it, scales back.
    5. An attention takes part if linear layers with biases make query, key and value, only reshapes, transposes and a
       constant factor lie between, the scores go through softmax over the keys at once, and one linear layer with a
       bias reads the result. The refusal names the part that is missing.
    6. The float model must answer as before on a batch of calibration data; if not, nothing is changed.
    """

    name: ClassVar[str] = "smooth-attention"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 0.1

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the float graph in place."""
        plan = make_plan(graph, context.policy, context.options, context.tensors)
        if not plan.products:
            return PassResult(refusals=(Refusal("graph", "no product of two computed tensors is quantized"),))
        integer = {id(node) for node in plan.products}
        found = [_attention(graph, node, integer) for node in plan.products if _softmax_before(node) is not None]
        attentions = [each for each in found if isinstance(each, _Attention)]
        refusals = [each for each in found if isinstance(each, Refusal)]
        before = context.write(graph, self.name)
        tensors = dict(context.tensors)
        undo = [(node, list(node.inputs)) for each in attentions for node in each.nodes]
        for each in attentions:
            each.centre(context)
            each.even_out(context)
        if attentions and not _same(before, context.write(graph, self.name), context):
            for node, inputs in undo:
                node.inputs.clear()
                node.inputs.extend(inputs)
            context.tensors = tensors
            return PassResult(refusals=(*refusals, Refusal("graph", "the float model would answer otherwise")))
        return PassResult(len(attentions), tuple(refusals), {"attentions": [each.value.name for each in attentions]})


@dataclass(frozen=True)
class _Linear:
    """A linear layer with a bias: a Gemm, or a MatMul and the Add behind it."""

    product: gs.Node
    bias: gs.Node
    index: int

    @property
    def name(self) -> str:
        return self.bias.outputs[0].name

    def shift(self, offsets: Floats) -> None:
        _put(self.bias, self.index, values(constant_at(self.bias, self.index)) + offsets)

    def scale(self, factors: Floats) -> None:
        """Multiply each output channel."""
        _put(self.bias, self.index, values(constant_at(self.bias, self.index)) * factors)
        shape = [1, 1]
        shape[output_axis(self.product)] = -1
        _put(self.product, 1, values(constant_at(self.product, 1)) * factors.reshape(shape))

    def answer(self, row: Floats) -> Floats:
        """What the layer's product makes of one row, without the bias."""
        weight = values(constant_at(self.product, 1))
        return row @ (weight if input_axis(self.product) == 0 else weight.T)


@dataclass(frozen=True)
class _Attention:
    query: _Linear
    key: _Linear
    value: _Linear
    factor: gs.Node | None
    """A Mul by one constant for each channel between the second product and the layer that reads it."""

    reader: _Linear

    @property
    def nodes(self) -> list[gs.Node]:
        parts = [part for each in (self.query, self.key, self.value, self.reader) for part in (each.product, each.bias)]
        return [*parts, *([self.factor] if self.factor is not None else [])]

    def centre(self, context: QuantizeContext) -> None:
        tensors = context.tensors
        for layer in (self.key, self.value):
            mean = tensors[layer.name].channel_mean
            layer.shift(-mean)
            tensors[layer.name] = tensors[layer.name].shifted(-mean)
        common = mean if self.factor is None else mean * self._factors()
        self.reader.shift(self.reader.answer(common))
        self._restate(context, lambda statistics: statistics.shifted(-common))

    def even_out(self, context: QuantizeContext) -> None:
        tensors = context.tensors
        query, key, value = (_reach(tensors[each.name].channel_absmax) for each in (self.query, self.key, self.value))
        balance = np.sqrt(key / query)
        balance /= np.exp(np.log(balance).mean())
        for layer, factors in ((self.query, balance), (self.key, 1 / balance), (self.value, value.max() / value)):
            layer.scale(factors)
            tensors[layer.name] = tensors[layer.name].scaled(factors)
        back = value / value.max()
        if self.factor is not None:
            index = _constant_index(self.factor)
            _put(self.factor, index, values(constant_at(self.factor, index)) * back)
            return
        shape = [1, 1]
        shape[input_axis(self.reader.product)] = -1
        _put(self.reader.product, 1, values(constant_at(self.reader.product, 1)) * back.reshape(shape))
        self._restate(context, lambda statistics: statistics.scaled(1 / back))

    def _factors(self) -> Floats:
        assert self.factor is not None
        return values(constant_at(self.factor, _constant_index(self.factor))).reshape(-1)

    def _restate(self, context: QuantizeContext, change: Any) -> None:
        name = self.reader.product.inputs[0].name
        if name in context.tensors and context.tensors[name].channel_low.size:
            context.tensors[name] = change(context.tensors[name])


def _attention(graph: gs.Graph, second: gs.Node, integer: set[int]) -> _Attention | Refusal:
    """The attention whose second product is `second`, or why it does not take part."""
    softmax = _softmax_before(second)
    assert softmax is not None
    first = _scores_before(softmax)
    if first is None or id(first) not in integer:
        return Refusal(second.name, "its scores are no quantized product")
    sources = [*product_inputs(graph, first), product_inputs(graph, second)[1]]
    layers = [_linear_behind(user.inputs[index]) for user, index in sources]
    factor, reader = _reader_of(second.outputs[0])
    if reader is None:
        return Refusal(second.name, "no linear layer with a bias alone reads its result")
    query, key, value = layers
    if query is None or key is None or value is None:
        missing = ("query", "key", "value")[layers.index(None)]
        return Refusal(second.name, f"no linear layer with a bias makes its {missing}")
    sizes = {len(values(constant_at(each.bias, each.index))) for each in (query, key, value)}
    if len(sizes) != 1:
        return Refusal(second.name, "query, key and value have different numbers of channels")
    return _Attention(query, key, value, factor, reader)


def _softmax_before(node: gs.Node) -> gs.Node | None:
    """The softmax over the last axis whose result is the product's first input."""
    maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    if maker is None or maker.op != "Softmax" or len(maker.outputs[0].outputs) != 1:
        return None
    rank = len(maker.outputs[0].shape or ())
    return maker if maker.attrs.get("axis", -1) in (-1, rank - 1) else None


def _scores_before(softmax: gs.Node) -> gs.Node | None:
    """The product behind a softmax, when only a mask and a constant factor lie between."""
    tensor = softmax.inputs[0]
    while tensor.inputs and len(tensor.outputs) == 1:
        node = tensor.inputs[0]
        if node.op == "MatMul":
            return node
        if node.op not in ("Add", "Mul", "Div"):
            return None
        if node.op != "Add" and not (is_known(node.inputs[1]) and np.prod(node.inputs[1].shape) == 1):
            return None
        ways = [part for part in node.inputs if part.inputs and part.inputs[0].op in ("MatMul", "Mul", "Div", "Add")]
        if not ways:
            return None
        tensor = ways[0]
    return None


def _linear_behind(tensor: gs.Tensor) -> _Linear | None:
    """The linear layer whose result, which nobody else reads, is `tensor`."""
    return _linear(tensor.inputs[0]) if tensor.inputs and len(tensor.outputs) == 1 else None


def _linear(node: gs.Node) -> _Linear | None:
    """The linear layer that ends in `node`."""
    if node.op == "Gemm":
        whole = (
            has_constant_weight(node)
            and is_known(node.inputs[1])
            and len(node.inputs) > 2
            and _is_vector(node.inputs[2])
        )
        return _Linear(node, node, 2) if whole else None
    for index in (0, 1) if node.op == "Add" else ():
        other = node.inputs[1 - index]
        if _is_vector(node.inputs[index]) and other.inputs and len(other.outputs) == 1:
            product = other.inputs[0]
            constant = product.op == "MatMul" and has_constant_weight(product) and is_known(product.inputs[1])
            return _Linear(product, node, index) if constant else None
    return None


def _reader_of(tensor: gs.Tensor) -> tuple[gs.Node | None, _Linear | None]:
    """The factor and the linear layer behind a product."""
    factor: gs.Node | None = None
    for node in _single_users(tensor):
        if node.op == "Mul" and factor is None and any(_is_vector(part) for part in node.inputs):
            factor = node
        elif node.op in ("Gemm", "MatMul"):
            users = node.outputs[0].outputs
            last = node if node.op == "Gemm" else users[0] if len(users) == 1 else None
            found = _linear(last) if last is not None else None
            return factor, found if found is not None and found.product is node else None
        elif node.op not in _MOVES:
            break
    return None, None


def _single_users(tensor: gs.Tensor) -> Iterator[gs.Node]:
    while len(tensor.outputs) == 1:
        yield tensor.outputs[0]
        tensor = tensor.outputs[0].outputs[0]


def _same(before: Any, after: Any, context: QuantizeContext) -> bool:
    feeds = next(iter(context.fitting()))
    exact, found = (context.open_model(each)(feeds) for each in (before, after))
    for name, array in exact.items():
        if array.dtype.kind == "f" and array.size:
            scale = float(np.abs(array).max())
            if not float(np.abs(array - found[name]).max()) <= 1e-3 * scale:
                return False
    return True


def _reach(absmax: Floats) -> Floats:
    return np.maximum(absmax, max(_LEAST * float(absmax.max()), 1e-30))


def _put(node: gs.Node, index: int, array: Floats) -> None:
    replace_constant(node, index, array.astype(constant_at(node, index).dtype), "evened")


def _constant_index(node: gs.Node) -> int:
    return next(index for index, part in enumerate(node.inputs) if is_known(part))


def _is_vector(tensor: gs.Tensor) -> bool:
    return is_known(tensor) and len(tensor.shape or ()) == 1
