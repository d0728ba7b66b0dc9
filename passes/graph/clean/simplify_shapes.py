"""Shape computations whose result is known when the graph is built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues, Vector
from enginery.passes.graph.weights import is_known, numpy_dtype

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class SimplifyShapes(ScopedPass):
    """Replaces towers of Shape, Gather, Slice, Concat, ... by what they come to.

    1. A shape computation whose values are all static becomes a constant.
    2. A `Reshape` whose target is computed gets a constant target: a dimension that the input has at the same place
       is copied (0), one other dynamic dimension is left to the runtime (-1).
    3. A target with two dynamic dimensions that the input does not have at the same place is kept. (Refused.)
    4. An `Expand` to the shape that its input has hands it on, and so does a `Reshape`.
    5. The `Shape` of one named dimension is read from a graph input that has it, so that layers share it.
    6. Named dimensions are trusted as the exporter declared them; the proof runs several sizes of each.
    """

    name: ClassVar[str] = "simplify-shapes"
    tolerance: ClassVar[float] = 0.0
    in_functions: ClassVar[bool] = False

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        for node in edits.graph.nodes:
            if node.domain:
                continue
            if node.op in ("Reshape", "Expand") and len(node.inputs) == 2:
                yield from _target(node, shapes, edits)
            elif node.op == "Shape" and (found := _from_input(node, edits)) is not None:
                edits.replace(node.outputs[0], found)
            else:
                _fold(node, shapes, edits)


def _fold(node: gs.Node, shapes: ShapeValues, edits: Edits) -> None:
    """Case 1."""
    output = node.outputs[0] if len(node.outputs) == 1 else None
    if output is None or output.dtype is None or numpy_dtype(output).kind != "i" or node.op == "Constant":
        return
    values = shapes.vector(output)
    if values is None or not all(isinstance(value, int) for value in values) or edits.is_output(output):
        return
    if output.shape is None:
        return
    folded = np.array(values, output.dtype)
    edits.replace(output, edits.constant(output.name, folded.reshape([len(values)] if len(output.shape) else [])))


def _from_input(node: gs.Node, edits: Edits) -> gs.Tensor | None:
    """Case 5."""
    dims = dims_of(node.inputs[0])
    if dims is None or edits.is_input(node.inputs[0]) or edits.is_output(node.outputs[0]) or edits.graph.opset < 15:
        return None
    read = dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]
    if len(read) != 1 or not isinstance(read[0], str):
        return None
    for tensor in edits.graph.inputs:
        given = dims_of(tensor) or ()
        if read[0] in given:
            axis = given.index(read[0])
            attrs = {"start": axis, "end": axis + 1}
            return edits.node("Shape", [tensor], at=node, takes_name=True, like=node.outputs[0], attrs=attrs)
    return None


def _target(node: gs.Node, shapes: ShapeValues, edits: Edits) -> Iterable[Refusal]:
    output = node.outputs[0]
    source, target = shapes.dims(node.inputs[0]), shapes.vector(node.inputs[1])
    if source is None or target is None:
        return
    if node.op == "Reshape":
        target = _resolved(target, source, allow_zero=bool(node.attrs.get("allowzero", 0)))
    if _shape_kept(node, source, target) and edits.can_replace(output, node.inputs[0]):  # case 4
        edits.replace(output, node.inputs[0])
        return
    if node.op == "Expand" or is_known(node.inputs[1]):
        return
    constant = _constant_target(source, target)
    if constant is None:
        where = ", ".join(map(str, target))
        yield Refusal(label(node), f"target [{where}] kept: two dynamic dimensions are not the input's own")
        return
    shape = edits.constant(f"{node.name or output.name}/shape", np.array(constant, np.int64))
    made = edits.node("Reshape", [node.inputs[0], shape], at=node, like=output)
    made.shape = [None if value == -1 or str(value).endswith("]") else value for value in target]
    edits.replace(output, made)


def _resolved(target: Vector, source: Vector, *, allow_zero: bool) -> Vector:
    """The target with zeros replaced by the dimensions that they copy."""
    if allow_zero:
        return target
    return tuple(source[i] if value == 0 and i < len(source) else value for i, value in enumerate(target))


def _shape_kept(node: gs.Node, source: Vector, target: Vector) -> bool:
    if node.op == "Expand":  # a target of 1, or fewer dimensions, leaves the input as it is
        return len(target) <= len(source) and all(
            one in (1, other) for one, other in zip(target, source[len(source) - len(target) :], strict=True)
        )
    rest = [(one, other) for one, other in zip(target, source, strict=False) if one != other]
    return len(target) == len(source) and (not rest or (len(rest) == 1 and rest[0][0] == -1))


def _constant_target(source: Vector, target: Vector) -> list[int] | None:
    result: list[int] = []
    for index, value in enumerate(target):
        if index < len(source) and value == source[index]:
            result.append(value if isinstance(value, int) and value != 0 else 0)
        elif isinstance(value, int):
            if value == 0:
                return None
            result.append(value)
        else:
            result.append(-1)
    return result if result.count(-1) <= 1 else None
