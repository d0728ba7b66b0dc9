"""The values of shape computations, with dynamic dimensions as symbols."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from enginery.passes.graph.edit import producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import is_known, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Size = int | str
Vector = tuple[Size, ...]

_LONGEST = 64
_INTEGERS = {onnx.TensorProto.INT32, onnx.TensorProto.INT64}


class ShapeValues:
    """Evaluates integer tensors of rank 0 and 1 as tuples of numbers and symbols.

    A symbol is the name of a dimension, or `tensor[axis]` where the dimension has none. Two equal symbols are equal
    sizes. A tensor of rank 0 is a tuple of one. What is no shape computation evaluates to None.
    """

    def __init__(self) -> None:
        self._values: dict[int, Vector | None] = {}

    def dims(self, tensor: gs.Tensor) -> Vector | None:
        """The shape of a tensor in the same symbols, or None when its rank is unknown."""
        dims = dims_of(tensor)
        if dims is None:
            return None
        return tuple(f"{tensor.name}[{axis}]" if dim is None else dim for axis, dim in enumerate(dims))

    def vector(self, tensor: gs.Tensor) -> Vector | None:
        """The values of a tensor, or None when they are not known."""
        pending = [tensor]
        while pending:  # a stack of our own: towers may be deeper than Python's
            each = pending[-1]
            needed = [t for t in self._operands(each) if id(t) not in self._values]
            if needed and id(each) not in self._values:
                pending.extend(needed)
                continue
            pending.pop()
            if id(each) not in self._values:
                self._values[id(each)] = self._evaluate(each)
        return self._values[id(tensor)]

    def _operands(self, tensor: gs.Tensor) -> list[gs.Tensor]:
        node = producer(tensor)
        if node is None or node.domain or node.op not in _RULES or node.op == "Shape":
            return []
        return [each for each in node.inputs if not each.is_empty()]

    def _evaluate(self, tensor: gs.Tensor) -> Vector | None:
        if is_known(tensor):
            return _constant(tensor)
        node = producer(tensor)
        if node is None or node.domain or len(tensor.shape or ()) > 1:
            return None
        if node.op == "Shape":
            dims = self.dims(node.inputs[0])
            return None if dims is None else dims[node.attrs.get("start", 0) : node.attrs.get("end", None)]
        rule = _RULES.get(node.op)
        if rule is None:
            return None
        values = [None if each.is_empty() else self._values[id(each)] for each in node.inputs]
        result = None if not values or values[0] is None else rule(node, values)
        return result if result is None or len(result) <= _LONGEST else None


def _constant(tensor: gs.Constant) -> Vector | None:
    if len(tensor.shape) > 1 or math.prod(tensor.shape) > _LONGEST or numpy_dtype(tensor).kind not in "iub":
        return None
    return tuple(int(value) for value in np.atleast_1d(peek(tensor)))


def _numbers(value: Vector | None) -> list[int] | None:
    if value is None or not all(isinstance(each, int) for each in value):
        return None
    return [each for each in value if isinstance(each, int)]


def _same(_: gs.Node, values: list[Any]) -> Vector | None:
    return values[0]


def _cast(node: gs.Node, values: list[Any]) -> Vector | None:
    return values[0] if node.attrs.get("to") in _INTEGERS else None


def _concat(_: gs.Node, values: list[Any]) -> Vector | None:
    return None if None in values else tuple(each for value in values for each in value)


def _gather(_: gs.Node, values: list[Any]) -> Vector | None:
    picks = _numbers(values[1])
    if picks is None or not all(-len(values[0]) <= pick < len(values[0]) for pick in picks):
        return None
    return tuple(values[0][pick] for pick in picks)


def _slice(_: gs.Node, values: list[Any]) -> Vector | None:
    if len(values) < 3:  # before opset 10 the bounds are attributes
        return None
    start, stop = _numbers(values[1]), _numbers(values[2])
    step = _numbers(values[4]) if len(values) > 4 else [1]
    if not start or not stop or not step or step[0] == 0:
        return None
    # Python's slices clamp and count from the end as ONNX's do, except that ONNX writes "up to the first" as -inf.
    last = None if step[0] < 0 and stop[0] < -len(values[0]) else stop[0]
    return values[0][start[0] : last : step[0]]


def _pairs(values: list[Any]) -> list[tuple[Size, Size]] | None:
    """Two vectors element by element, one of them repeated where it has a single one; None where they do not fit."""
    if None in values:
        return None
    lengths = {len(value) for value in values} - {1}
    if len(lengths) > 1:
        return None
    length = lengths.pop() if lengths else 1  # an empty vector leaves nothing
    left, right = (value * length if len(value) == 1 else value for value in values)
    return list(zip(left, right, strict=True))


def _arithmetic(operation: Callable[[int, int], int], neutral: int | None) -> Callable[[gs.Node, list[Any]], Any]:
    def rule(_: gs.Node, values: list[Any]) -> Vector | None:
        pairs = _pairs(values)
        if pairs is None:
            return None
        results: list[Size] = []
        for one, other in pairs:
            if isinstance(one, int) and isinstance(other, int):
                results.append(operation(one, other))
            elif neutral is not None and other == neutral:
                results.append(one)
            elif neutral is not None and one == neutral and operation(1, 2) == operation(2, 1):
                results.append(other)
            else:
                return None
        return tuple(results)

    return rule


def _divide(one: int, other: int) -> int:
    return int(one / other) if other else 0


def _equal(_: gs.Node, values: list[Any]) -> Vector | None:
    """Sizes are never negative, so `size == -1` is false although the size is unknown."""
    pairs = _pairs(values)
    if pairs is None:
        return None
    results: list[int] = []
    for one, other in pairs:
        numbers = [each for each in (one, other) if isinstance(each, int)]
        if one == other or len(numbers) == 2:
            results.append(int(one == other))
        elif numbers and numbers[0] < 0:
            results.append(0)
        else:
            return None
    return tuple(results)


def _where(_: gs.Node, values: list[Any]) -> Vector | None:
    choice = _numbers(values[0])
    if choice is None or None in values or len({len(value) for value in values}) != 1:
        return None
    return tuple(values[1][i] if pick else values[2][i] for i, pick in enumerate(choice))


def _filled(node: gs.Node, values: list[Any]) -> Vector | None:
    shape = _numbers(values[0])
    if shape is None or len(shape) != 1 or shape[0] > _LONGEST:
        return None
    fill = node.attrs.get("value")
    value = peek(fill).item() if fill is not None else 0.0
    return (int(value),) * shape[0] if isinstance(value, int) else None


_RULES: dict[str, Callable[[gs.Node, list[Any]], Vector | None]] = {
    "Shape": _same,
    "Identity": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Reshape": _same,
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Add": _arithmetic(lambda a, b: a + b, 0),
    "Sub": _arithmetic(lambda a, b: a - b, 0),
    "Mul": _arithmetic(lambda a, b: a * b, 1),
    "Div": _arithmetic(_divide, 1),
    "Equal": _equal,
    "Where": _where,
    "ConstantOfShape": _filled,
}
"""What each op does to the values of its inputs; the first input is known when a rule is called."""
