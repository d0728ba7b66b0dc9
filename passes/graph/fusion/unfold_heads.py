"""Heads that an exporter folded into the batch, for batched products of three dimensions (`torch.bmm`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_UNARY = {"Softmax", "Mul", "Div", "Transpose"}
_BINARY = {"Add", "MatMul"}


@dataclass(frozen=True)
class UnfoldHeads(ScopedPass):
    """Computes over (batch, heads, ...) what an exporter computes over (batch * heads, ...).

    A tensor is folded where a `Reshape` makes (batch * heads, a, b) of (batch, heads, a, b), with a fixed number of
    heads. The fold moves behind what reads it, until it meets the `Reshape` that undoes it:

    1. A MatMul of two folded tensors with the same heads.
    2. A transpose of the last two dimensions, a product or quotient with one number, a softmax over the last dimension.
    3. The sum of a folded tensor and one of the folded shape, or (batch * heads, 1, b): that one is unfolded. What is
       added is no more than a view.
    4. A `Reshape` of a folded tensor back to what it was hands that on.
    5. A fold that leads to no product of two folded tensors stays where it is, and so does a sum in which nothing else
       is known to be folded.
    """

    name: ClassVar[str] = "unfold-heads"
    tolerance: ClassVar[float] = 0.0
    in_functions: ClassVar[bool] = False

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        shapes = ShapeValues()
        wanted = _on_the_way(edits)
        for node in edits.graph.nodes:
            if node.domain or not node.outputs or not node.inputs:
                continue
            if node.op == "Reshape":
                _undo(node, shapes, edits)
            elif id(node) in wanted and (made := _moved(node, edits)) is not None:
                folded = edits.node("Reshape", [made, _folded_shape(made, node, edits)], at=node, like=node.outputs[0])
                edits.replace(node.outputs[0], folded)
        return ()


def _on_the_way(edits: Edits) -> set[int]:
    """Case 5: products of folded tensors, what leads to them from their folds, and what their scores enter."""
    wanted: set[int] = set()
    for node in edits.graph.nodes:
        product = node.op == "MatMul" and all(_leads_to_fold(each, wanted) for each in node.inputs)
        if not node.domain and (product or (node.op in (_UNARY | {"Add"}) and any(map(_is_score, node.inputs)))):
            wanted.add(id(node))
    return wanted


def _is_score(tensor: gs.Tensor) -> bool:
    """Whether a tensor folds what was computed over heads, and not merely laid out."""
    source = unfolded(tensor)
    node = producer(source) if source is not None else None
    return node is not None and node.op in (_UNARY | _BINARY) - {"Transpose"}


def _leads_to_fold(tensor: gs.Tensor, wanted: set[int]) -> bool:
    """Whether a tensor is folded, or computed from a folded one by steps that are then wanted too."""
    steps: list[int] = []
    node = producer(tensor)
    while node is not None and node.op in _UNARY and not node.domain:
        steps.append(id(node))
        tensor = node.inputs[0]
        node = producer(tensor)
    if unfolded(tensor) is None:
        return False
    wanted.update(steps)
    return True


def unfolded(tensor: gs.Tensor) -> gs.Tensor | None:
    """The tensor over (batch, heads, a, b) that `tensor` folds; None where it is not folded."""
    node = producer(tensor)
    if node is None or node.op != "Reshape" or node.domain:
        return None
    before, after = dims_of(node.inputs[0]), dims_of(tensor)
    if before is None or after is None or len(before) != 4 or len(after) != 3 or not isinstance(before[1], int):
        return None
    same = all(one is not None and one == other for one, other in zip(before[2:], after[1:], strict=True))
    return node.inputs[0] if same else None


def _moved(node: gs.Node, edits: Edits) -> gs.Tensor | None:
    """What the node computes, over (batch, heads, ...); None where its inputs are not folded, or not alike."""
    if node.op in _BINARY:
        inputs = _both(node, edits)
    else:
        first = unfolded(node.inputs[0])
        inputs = [first, *node.inputs[1:]] if first is not None and _keeps_fold(node) else None
    if inputs is None:
        return None
    attrs = dict(node.attrs)
    if node.op == "Transpose":
        attrs["perm"] = [0, 1, 3, 2]
    if node.op == "Softmax":
        attrs["axis"] = -1
    made = edits.node(node.op, inputs, at=node, takes_name=True, attrs=attrs)
    leading = [dims[:2] for each in inputs if (dims := dims_of(each)) is not None and len(dims) == 4]
    after = dims_of(node.outputs[0])
    assert after is not None
    made.dtype = node.outputs[0].dtype
    made.shape = [next((dims[0] for dims in leading if dims[0] is not None), None), leading[0][1], *after[1:]]
    return made


def _keeps_fold(node: gs.Node) -> bool:
    """Case 2."""
    if node.op == "Transpose":
        return list(node.attrs.get("perm", ())) == [0, 2, 1]
    if node.op == "Softmax":
        return node.attrs.get("axis", -1) in (-1, 2)
    return is_known(node.inputs[1]) and int(np.prod(node.inputs[1].shape)) == 1


def _both(node: gs.Node, edits: Edits) -> list[gs.Tensor] | None:
    """Cases 1 and 3."""
    found = [unfolded(each) for each in node.inputs]
    known = [each for each in found if each is not None]
    if len(known) == 2:
        one, other = (dims_of(each) for each in known)
        # Equal heads and an equal fold leave equal batches.
        return known if one is not None and other is not None and one[1] == other[1] else None
    if len(known) != 1 or node.op != "Add":
        return None
    dims = dims_of(known[0])
    assert dims is not None, "an unfolded tensor has known heads"
    heads = dims[1]
    return [
        _unfold(tensor, heads, node, edits) if each is None else each
        for each, tensor in zip(found, node.inputs, strict=True)
    ]


def _unfold(tensor: gs.Tensor, heads: int | str | None, at: gs.Node, edits: Edits) -> gs.Tensor:
    """A tensor over (batch * heads, a, b) as (batch, heads, a, b), whatever made it."""
    dims = dims_of(tensor)
    if dims is None or len(dims) < 3 or dims[0] == 1:
        return tensor  # it broadcasts over batch and heads
    last = edits.node("Shape", [tensor], at=at, attrs={"start": 1, "end": 3}, name=f"{tensor.name}/last")
    last.dtype, last.shape = np.dtype(np.int64), [2]
    leading = edits.constant(f"{label(at)}/heads", np.array([-1, heads]))
    target = edits.node("Concat", [leading, last], at=at, attrs={"axis": 0}, name=f"{tensor.name}/unfolded_shape")
    target.dtype, target.shape = np.dtype(np.int64), [4]
    made = edits.node("Reshape", [tensor, target], at=at, name=f"{tensor.name}/unfolded")
    made.dtype, made.shape = tensor.dtype, [None, heads, *dims[1:]]
    return made


def _folded_shape(tensor: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    last = edits.node("Shape", [tensor], at=at, attrs={"start": 2, "end": 4}, name=f"{label(at)}/last")
    last.dtype, last.shape = np.dtype(np.int64), [2]
    rest = edits.constant(f"{label(at)}/batch", np.array([-1]))
    target = edits.node("Concat", [rest, last], at=at, attrs={"axis": 0}, name=f"{label(at)}/folded_shape")
    target.dtype, target.shape = np.dtype(np.int64), [3]
    return target


def _undo(node: gs.Node, shapes: ShapeValues, edits: Edits) -> None:
    """Case 4."""
    source = unfolded(node.inputs[0])
    target = shapes.vector(node.inputs[1])
    dims = shapes.dims(source) if source is not None else None
    if source is None or dims is None or target is None or len(target) != 4:
        return
    open_ = [one for one, other in zip(target, dims, strict=True) if one != other]
    if (not open_ or open_ == [-1]) and edits.can_replace(node.outputs[0], source):
        edits.replace(node.outputs[0], source)
