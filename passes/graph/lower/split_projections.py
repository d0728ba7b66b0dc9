"""One product for queries, keys and values, as three."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import DerivedValues, is_known, numpy_dtype, peek

if TYPE_CHECKING:
    from enginery.passes.graph.edit import Edits
    from enginery.passes.graph.symbolic import Vector


@dataclass(frozen=True)
class _Projection:
    """x W + b, for W of (inputs, columns)."""

    product: gs.Node
    weights: gs.Constant
    result: gs.Tensor
    bias: gs.Constant | None

    @property
    def columns(self) -> int:
        return int(self.weights.shape[1])


@dataclass(frozen=True)
class _Part:
    """A cut of the columns, and the tensor that it becomes: seen as `shape`, with its axes in `order`.

    Without a `shape` it is seen as it is; without an `order` its axes stay.
    """

    first: int
    last: int
    becomes: gs.Tensor
    shape: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class SplitProjections(ScopedPass):
    """Writes a product whose columns are taken apart as one product for each part.

    Queries, keys and values are often one product. Taking the result apart copies all of it; cutting the weights costs
    nothing, and a part that is used in one position only is computed there only (`select-early`).

    1. A `MatMul` with constant weights, and its bias, whose result is cut by a `Split` of the last dimension become one
       for each of its outputs.
    2. So do those that are seen as (..., parts, size) or (..., parts, heads, size), transposed, and cut by `Slice` and
       `Squeeze`, or by `Gather`, along the parts. Each part is then seen as (..., heads, size), and transposed.
    3. A result that something else reads, or that is cut in another way, stays whole.
    """

    name: ClassVar[str] = "split-projections"

    in_functions: ClassVar[bool] = False

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        inside = {id(node) for node in edits.graph.nodes}
        for node in edits.graph.nodes:
            projection = _projection(node, edits)
            if projection is None:
                continue
            parts = _cut(projection, edits) or _taken_apart(projection, shapes, edits)
            if all(id(producer(part.becomes)) in inside for part in parts):  # not in a subgraph of this one
                for part in parts:
                    edits.replace(part.becomes, _written(projection, part, edits))
        return ()


def _projection(node: gs.Node, edits: Edits) -> _Projection | None:
    weights = node.inputs[1] if node.op == "MatMul" and not node.domain else None
    if weights is None or not is_known(weights) or len(weights.shape) != 2:
        return None
    result = node.outputs[0]
    reader = _only_reader(result, edits)
    if reader is None or reader.op != "Add" or reader.domain:
        return _Projection(node, weights, result, None)
    bias = next((each for each in reader.inputs if each is not result), None)
    if bias is None or not is_known(bias) or list(bias.shape) != [weights.shape[1]]:
        return None
    return _Projection(node, weights, reader.outputs[0], bias)


def _only_reader(tensor: gs.Tensor, edits: Edits) -> gs.Node | None:
    return tensor.outputs[0] if len(tensor.outputs) == 1 and not edits.is_output(tensor) else None


def _cut(projection: _Projection, edits: Edits) -> list[_Part]:
    """Case 1."""
    reader, dims = _only_reader(projection.result, edits), dims_of(projection.result)
    if reader is None or reader.op != "Split" or dims is None or reader.attrs.get("axis", 0) not in (-1, len(dims) - 1):
        return []
    shapes = [dims_of(each) for each in reader.outputs]
    widths = [shape[-1] for shape in shapes if shape is not None and isinstance(shape[-1], int)]
    if len(widths) < len(shapes) or sum(widths) != projection.columns:
        return []
    parts: list[_Part] = []
    for width, becomes in zip(widths, reader.outputs, strict=True):
        first = parts[-1].last if parts else 0
        parts.append(_Part(first, first + width, becomes))
    return parts


def _taken_apart(projection: _Projection, shapes: ShapeValues, edits: Edits) -> list[_Part]:
    """Case 2."""
    seen = _only_reader(projection.result, edits)
    turned = _only_reader(seen.outputs[0], edits) if seen is not None and seen.op == "Reshape" else None
    if seen is None or turned is None or turned.op != "Transpose" or edits.is_output(turned.outputs[0]):
        return []
    flat, apart = (shapes.dims(node.outputs[0]) for node in (producer(projection.result), seen) if node is not None)
    if flat is None or apart is None or apart[: len(flat) - 1] != flat[:-1]:
        return []
    axis, order = len(flat) - 1, list(turned.attrs.get("perm", ()))
    inner = [size for size in apart[axis:] if isinstance(size, int)]
    if (
        len(inner) != len(apart) - axis
        or len(inner) < 2
        or int(np.prod(inner)) != projection.columns
        or axis not in order
    ):
        return []
    parts, *rest = inner
    width = projection.columns // parts
    kept = tuple(each - (each > axis) for each in order if each != axis)
    found: list[_Part] = []
    for reader in turned.outputs[0].outputs:
        taken = _taken(reader, order.index(axis), parts, shapes, edits)
        if taken is None:
            return []
        place, becomes = taken
        shape = (*[0] * axis, *rest) if len(rest) > 1 else ()
        found.append(_Part(place * width, (place + 1) * width, becomes, shape, kept))
    return found


def _taken(reader: gs.Node, axis: int, parts: int, shapes: ShapeValues, edits: Edits) -> tuple[int, gs.Tensor] | None:
    """Which part along `axis` a node takes, and the tensor without that axis."""
    if reader.op == "Gather" and reader.attrs.get("axis", 0) == axis and dims_of(reader.inputs[1]) == ():
        place = shapes.vector(reader.inputs[1])
        return _within(place, parts, reader.outputs[0])
    squeezed = _only_reader(reader.outputs[0], edits)
    if reader.op != "Slice" or len(reader.inputs) < 4 or squeezed is None or squeezed.op != "Squeeze":
        return None
    starts, ends, axes, *steps = (shapes.vector(each) for each in reader.inputs[1:])
    if axes != (axis,) or steps not in ([], [(1,)]) or starts is None or ends is None:
        return None
    if len(squeezed.inputs) < 2 or shapes.vector(squeezed.inputs[1]) != (axis,):
        return None
    first, last = starts[0], ends[0]
    whole = isinstance(first, int) and isinstance(last, int) and first >= 0 and min(last, parts) == first + 1
    return _within(starts, parts, squeezed.outputs[0]) if whole else None


def _within(place: Vector | None, parts: int, becomes: gs.Tensor) -> tuple[int, gs.Tensor] | None:
    if place is None or not isinstance(place[0], int) or not -parts <= place[0] < parts:
        return None
    return place[0] % parts, becomes


def _written(projection: _Projection, part: _Part, edits: Edits) -> gs.Tensor:
    node = projection.product
    dims = list(dims_of(projection.result) or dims_of(node.outputs[0]) or ())
    span = slice(part.first, part.last)

    def typed(made: gs.Tensor) -> gs.Tensor:
        made.dtype, made.shape = projection.result.dtype, [*dims[:-1], part.last - part.first]
        return made

    name = f"{label(node)}/{part.first}"
    cut = _columns(projection.weights, span, edits)
    made = typed(edits.node("MatMul", [node.inputs[0], cut], at=node, name=name))
    if projection.bias is not None:
        bias = _columns(projection.bias, span, edits)
        made = typed(edits.node("Add", [made, bias], at=node, name=f"{name}/bias"))
    if part.shape:
        shape = edits.constant(f"{name}/shape", np.array(part.shape))
        seen = edits.node("Reshape", [made, shape], at=node, name=f"{name}/seen")
        seen.dtype, seen.shape = made.dtype, [*dims[:-1], *part.shape[len(dims) - 1 :]]
        made = seen
    if part.order == tuple(range(len(part.order))):
        return made
    return edits.node(
        "Transpose", [made], at=node, like=part.becomes, attrs={"perm": list(part.order)}, name=f"{name}/turned"
    )


def _columns(source: gs.Constant, span: slice, edits: Edits) -> gs.Constant:
    name = edits.names.fresh(f"{source.name}/{span.start}")
    return gs.Constant(name, ColumnValues(source, name, span))


class ColumnValues(DerivedValues):
    """Some columns of a constant, cut when they are read."""

    def __init__(self, source: gs.Constant, name: str, span: slice) -> None:
        dtype = onnx.helper.np_dtype_to_tensor_dtype(numpy_dtype(source))
        super().__init__(
            onnx.TensorProto(name=name, dims=[*source.shape[:-1], span.stop - span.start], data_type=dtype)
        )
        self._source = source
        self._span = span

    def load(self) -> Any:
        return np.ascontiguousarray(peek(self._source)[..., self._span])
