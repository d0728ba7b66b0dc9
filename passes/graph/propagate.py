"""Dimensions that ONNX's shape inference loses where a shape is computed in the graph.

TorchScript writes `view(x.size(0), -1, heads, size)` as a tower of Shape, Gather and Concat before a Reshape. Inference
knows the rank of the result and no dimension. `ShapeValues` knows what such towers come to; one sweep hands that on
through the operators that transformers are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from enginery.passes.graph.shapes import Dim, dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, peek

Dims = tuple[Dim, ...]
Rule = Callable[[gs.Node, ShapeValues], "Dims | None"]

if TYPE_CHECKING:
    from enginery.passes.graph.symbolic import Vector


def propagate_dims(graph: gs.Graph) -> None:
    """Fill in dimensions of a graph's own tensors that are unknown and follow from those of their inputs."""
    shapes = ShapeValues()
    for node in graph.nodes:
        rule = _RULES.get(node.op)
        if rule is None or node.domain:
            continue
        outputs = [each for each in node.outputs if isinstance(each, gs.Variable) and not _is_full(each)]
        new = rule(node, shapes) if outputs else None
        if new is None:
            continue
        for output in outputs if node.op == "Split" else outputs[:1]:
            old = dims_of(output)
            if old is None or len(old) == len(new):
                old = old or (None,) * len(new)
                output.shape = [_named(b) if a is None else a for a, b in zip(old, new, strict=True)]


def _is_full(tensor: gs.Tensor) -> bool:
    dims = dims_of(tensor)
    return dims is not None and None not in dims


def _named(dim: Dim) -> Dim:
    """A symbol such as `x[0]` stands for one tensor's dimension and is no name."""
    return None if isinstance(dim, str) and dim.endswith("]") else dim


def _same(node: gs.Node, _: ShapeValues) -> Dims | None:
    return dims_of(node.inputs[0])


def _broadcast(node: gs.Node, _: ShapeValues) -> Dims | None:
    return broadcast_dims([dims_of(tensor) for tensor in node.inputs if not tensor.is_empty()])


def broadcast_dims(shapes: list[Dims | None]) -> Dims | None:
    """The shape of an elementwise operation; None where a rank is unknown."""
    known = [dims for dims in shapes if dims is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known), default=0)
    padded = [(1,) * (rank - len(dims)) + dims for dims in known]
    return tuple(_meet(list(column)) for column in zip(*padded, strict=True))


def _meet(column: list[Dim]) -> Dim:
    """One dimension of several that broadcast: what is not 1, where that is one size."""
    sizes = list(dict.fromkeys(dim for dim in column if dim != 1))
    # Min(512, n) and n broadcast only where they are equal: n is 1 where the smaller of the two is.
    sizes = [dim for dim in sizes if not any(_is_cut(dim, other) for other in sizes)]
    numbers = [dim for dim in sizes if isinstance(dim, int)]
    if len(sizes) == 1 or not sizes:
        return sizes[0] if sizes else 1
    return numbers[0] if len(numbers) == 1 else None  # a size that is a number and not 1 wins over unknown ones


def _is_cut(dim: Dim, other: Dim) -> bool:
    """Whether `dim` is Min(number above 1, other), as `_slice` writes it."""
    return isinstance(dim, str) and isinstance(other, str) and dim.startswith("Min(") and dim.endswith(f", {other})")


def _transpose(node: gs.Node, _: ShapeValues) -> Dims | None:
    dims = dims_of(node.inputs[0])
    if dims is None:
        return None
    order = node.attrs.get("perm") or range(len(dims))[::-1]
    return tuple(dims[axis] for axis in order)


def _matmul(node: gs.Node, _: ShapeValues) -> Dims | None:
    one, other = (dims_of(tensor) for tensor in node.inputs)
    if one is None or other is None or len(one) < 2 or len(other) < 2:
        return None
    batch = broadcast_dims([one[:-2], other[:-2]])
    return None if batch is None else (*batch, one[-2], other[-1])


def _reshape(node: gs.Node, shapes: ShapeValues) -> Dims | None:
    source, target = shapes.dims(node.inputs[0]), shapes.vector(node.inputs[1])
    if target is None:
        return None
    result: list[Dim] = list(target)
    if not node.attrs.get("allowzero", 0):
        result = [source[i] if value == 0 and source and i < len(source) else value for i, value in enumerate(target)]
    return tuple(result) if -1 not in result else _rest(source, result)


def _rest(source: Vector | None, target: list[Dim]) -> Dims:
    """The target with its -1 as the one dimension that is left over, where that is one."""
    if source is None:
        return tuple(None if value == -1 else value for value in target)
    left: list[Dim] = list(source)
    wanted: list[Dim] = []
    for value in (value for value in target if value != -1):
        if value in left:
            left.remove(value)  # each size is restored once
        else:
            wanted.append(value)
    over, under = (_product(values) for values in (left, wanted))
    symbols = [value for value in left if isinstance(value, str)]
    if any(isinstance(value, str) for value in wanted) or not under or over % under:
        rest: Dim = None
    elif not symbols:
        rest = over // under
    else:
        rest = symbols[0] if len(symbols) == 1 and over == under else None
    return tuple(rest if value == -1 else value for value in target)


def _product(values: list[Dim]) -> int:
    """The product of the numbers among the values."""
    result = 1
    for value in values:
        result *= value if isinstance(value, int) else 1
    return result


def _expand(node: gs.Node, shapes: ShapeValues) -> Dims | None:
    return broadcast_dims([dims_of(node.inputs[0]), shapes.vector(node.inputs[1])])


def _gather(node: gs.Node, _: ShapeValues) -> Dims | None:
    data, indices = (dims_of(tensor) for tensor in node.inputs)
    if data is None or indices is None:
        return None
    axis = node.attrs.get("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _unsqueeze(node: gs.Node, _: ShapeValues) -> Dims | None:
    dims = dims_of(node.inputs[0])
    if dims is None or len(node.inputs) < 2 or not is_known(node.inputs[1]):
        return None
    axes = peek(node.inputs[1]).reshape(-1).tolist()
    result: list[Dim] = list(dims)
    for axis in sorted(axis % (len(dims) + len(axes)) for axis in axes):
        result.insert(axis, 1)
    return tuple(result)


def _slice(node: gs.Node, shapes: ShapeValues) -> Dims | None:
    """A slice from 0 to a dimension of another tensor: Min(size, that dimension)."""
    dims = dims_of(node.inputs[0])
    bounds = [shapes.vector(each) for each in node.inputs[1:]]
    if dims is None or len(bounds) < 3 or None in bounds:
        return None
    starts, stops, axes = bounds[:3]
    assert starts is not None
    assert stops is not None
    assert axes is not None
    steps = bounds[3] if len(bounds) > 3 else (1,) * len(axes)
    result: list[Dim] = list(dims)
    for start, stop, axis, step in zip(starts, stops, axes, steps or (), strict=True):
        if not isinstance(axis, int):
            return None
        size = dims[axis]
        whole = isinstance(size, int) and size > 1 and isinstance(stop, str) and (start, step) == (0, 1)
        result[axis] = f"Min({size}, {stop})" if whole else None
    return tuple(result)


def _range(node: gs.Node, shapes: ShapeValues) -> Dims | None:
    start, stop, step = (shapes.vector(each) for each in node.inputs)
    return (stop[0],) if stop is not None and (start, step) == ((0,), (1,)) else None


def _gather_elements(node: gs.Node, _: ShapeValues) -> Dims | None:
    return dims_of(node.inputs[1])


def _gemm(node: gs.Node, _: ShapeValues) -> Dims | None:
    one, other = (dims_of(tensor) for tensor in node.inputs[:2])
    if one is None or other is None:
        return None
    turned = [bool(node.attrs.get(name, 0)) for name in ("transA", "transB")]  # whatever is not 0
    return one[turned[0]], other[1 - turned[1]]


def _split(node: gs.Node, _: ShapeValues) -> Dims | None:
    dims = dims_of(node.inputs[0])
    if dims is None:
        return None
    axis, parts = node.attrs.get("axis", 0) % len(dims), len(node.outputs)
    size = dims[axis]
    equal = isinstance(size, int) and len(node.inputs) == 1 and "split" not in node.attrs and size % parts == 0
    return (*dims[:axis], size // parts if equal and isinstance(size, int) else None, *dims[axis + 1 :])


_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Cast", "Erf", "Gelu", "Identity", "IsNaN", "LayerNormalization", "Neg", "Not", "Relu", "Sigmoid", "Softmax"),
        _same,
    ),
    **dict.fromkeys(("Sqrt", "Tanh", "Trilu", "Dropout", "RMSNormalization"), _same),
    **dict.fromkeys(("Add", "And", "Div", "Equal", "Mul", "Or", "Pow", "Sub", "Where"), _broadcast),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"), _broadcast),
    "Transpose": _transpose,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "Range": _range,
    "Slice": _slice,
    "Split": _split,
    "Unsqueeze": _unsqueeze,
}
"""The shape of each op's first output from its inputs; None where it does not follow."""
