"""One position of a sequence, selected before the work instead of after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.clean.selection import selected_inputs
from enginery.passes.graph.edit import producer
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_WORK = {"Attention", "Gemm", "MatMul"}
"""What is worth being done for one position only."""


@dataclass
class _Region:
    """The nodes that serve one selection and nothing else, and along which axes their tensors are selected."""

    selection: gs.Node
    axes: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """By tensor, an axis for each reader that has joined."""

    nodes: dict[int, gs.Node] = field(default_factory=dict[int, "gs.Node"])

    def axis(self, tensor: gs.Tensor) -> int:
        return self.axes[id(tensor)][0]


@dataclass(frozen=True)
class SelectEarly(ScopedPass):
    """Computes one position of a sequence where only that one is used.

    A classifier on the first token uses one row of its last layer; the products, norms and activations of the other
    rows are computed for nothing. Only the keys and values of attention need them.

    1. `Gather` of one position moves in front of the nodes that only serve it: elementwise ones, normalizations over
       other dimensions, `MatMul` and `Gemm` in their rows, `Transpose`, and the queries and the mask of `Attention`.
       What is the same for all positions, such as a bias, is not selected.
    2. A value that something else reads, such as a graph output, is computed as before, and selected after that.
    3. It stays where no product lies before it: nothing would be saved.
    4. Causal attention, and attention with a cache, depends on the position of its queries: selected after it.
    """

    name: ClassVar[str] = "select-early"

    in_functions: ClassVar[bool] = False

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        order = {id(node): place for place, node in enumerate(edits.graph.nodes)}
        for node in edits.graph.nodes:
            axis = _selected_axis(node)
            if axis is None:
                continue
            region = _region(node, axis, edits, order)
            if any(each.op in _WORK for each in region.nodes.values()):
                nodes = sorted(region.nodes.values(), key=lambda each: order[id(each)])
                edits.replace(node.outputs[0], _rewritten(region, nodes, edits))
        return ()


def _selected_axis(node: gs.Node) -> int | None:
    """The axis of which a `Gather` takes one position; None for other nodes."""
    if node.op != "Gather" or node.domain or not is_known(node.inputs[1]) or producer(node.inputs[0]) is None:
        return None
    dims = dims_of(node.inputs[0])
    if dims is None or node.inputs[1].shape not in ([], (), [1], (1,)):
        return None
    axis = int(node.attrs.get("axis", 0))
    return axis + len(dims) if axis < 0 else axis


def _region(selection: gs.Node, axis: int, edits: Edits, order: Mapping[int, int]) -> _Region:
    """Nodes join from the selection upwards, as soon as all that read their output have joined (case 2)."""
    region = _Region(selection)
    pending = [(selection.inputs[0], axis)]
    while pending:
        tensor, axis = pending.pop()
        axes = region.axes.setdefault(id(tensor), [])
        axes.append(axis)
        maker = producer(tensor)
        if maker is None or id(maker) not in order or axes != [axis] * len(tensor.outputs) or edits.is_output(tensor):
            continue
        inputs = selected_inputs(maker, tensor, axis)
        if inputs is not None:
            region.nodes[id(maker)] = maker
            pending.extend((maker.inputs[slot], along) for slot, along in inputs.items())
    return region


def _rewritten(region: _Region, nodes: Iterable[gs.Node], edits: Edits) -> gs.Tensor:
    """The nodes of a region again, over one position; what replaces the result of the selection."""
    index = region.selection.inputs[1]
    assert is_known(index)  # see `_selected_axis`
    position = edits.constant("position", peek(index).reshape(1))
    made: dict[tuple[int, int], gs.Tensor] = {}

    def selected(tensor: gs.Tensor, axis: int, at: gs.Node) -> gs.Tensor:
        if (id(tensor), axis) not in made:
            name = f"{tensor.name}/selected"
            early = edits.node("Gather", [tensor, position], at=at, name=name, attrs={"axis": axis})
            made[id(tensor), axis] = _narrowed(early, tensor, axis)
        return made[id(tensor), axis]

    for node in nodes:
        output = node.outputs[0]
        axis = region.axis(output)
        along = selected_inputs(node, output, axis)
        assert along is not None
        inputs = [selected(each, along[i], node) if i in along else each for i, each in enumerate(node.inputs)]
        early = edits.node(node.op, inputs, at=node, takes_name=True, attrs=node.attrs)
        made[id(output), axis] = _narrowed(early, output, axis)
        edits.replace(output, early)
    source = region.selection.inputs[0]
    return _shaped(region.selection, made[id(source), region.axis(source)], region.axis(source), edits)


def _narrowed(made: gs.Tensor, like: gs.Tensor, axis: int) -> gs.Tensor:
    dims = dims_of(like)
    assert dims is not None
    made.dtype, made.shape = like.dtype, [*dims[:axis], 1, *dims[axis + 1 :]]
    return made


def _shaped(selection: gs.Node, made: gs.Tensor, axis: int, edits: Edits) -> gs.Tensor:
    """A scalar index drops the axis, a list of one keeps it."""
    if len(selection.inputs[1].shape):
        return made
    inputs = [made, edits.constant("axis", np.array([axis]))]
    return edits.node("Squeeze", inputs, at=selection, takes_name=True, like=selection.outputs[0])
