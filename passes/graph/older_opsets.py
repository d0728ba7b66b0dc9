"""What raises each operator from opset 7 to 13: attributes became inputs, two operators ended, softmax changed.

Each change has a `rewrite`, and says `why_not` where a node means something that the newer operator cannot say alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs

from enginery.passes.graph.edit import Names, label
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    from collections.abc import Callable


class Rewrite(Protocol):
    def __call__(self, node: gs.Node, names: Names) -> None:
        """Edit the node in place."""
        ...


def _never(node: gs.Node) -> str | None:
    del node
    return None


@dataclass(frozen=True)
class Change:
    """How a node is rewritten for the opset in which its operator changed, and why it may not be (None: it is)."""

    rewrite: Rewrite
    why_not: Callable[[gs.Node], str | None] = _never


def axes_to_input(node: gs.Node, names: Names) -> None:
    """Axes of a reduction, Squeeze or Unsqueeze: an attribute before, the second input since."""
    _to_input(node, names, "axes")


def _to_input(node: gs.Node, names: Names, attribute: str, dtype: Any = np.int64) -> None:
    value = node.attrs.pop(attribute, None)
    if value is not None:
        node.inputs.append(gs.Constant(names.fresh(f"{label(node)}/{attribute}"), np.array(value, dtype)))


def _to_inputs(*attributes: str) -> Rewrite:
    def rewrite(node: gs.Node, names: Names) -> None:
        for attribute in attributes:
            _to_input(node, names, attribute)

    return rewrite


def _top_k(node: gs.Node, names: Names) -> None:
    node.attrs["k"] = [node.attrs["k"]]
    _to_input(node, names, "k")


def _bounds(node: gs.Node, names: Names) -> None:
    """Clip's bounds have the type of its input; an absent lower bound before an upper one is an empty name."""
    dtype = _type(node)
    for place, bound in enumerate(("min", "max"), 1):
        if bound in node.attrs:
            while len(node.inputs) < place:
                node.inputs.append(gs.Variable.empty())
            _to_input(node, names, bound, dtype)


def _padding(node: gs.Node, names: Names) -> None:
    _to_input(node, names, "pads")
    if node.attrs.get("value", 0.0):
        _to_input(node, names, "value", _type(node))
    node.attrs.pop("value", None)


def _type(node: gs.Node) -> Any:
    return node.inputs[0].dtype or node.outputs[0].dtype


def _untyped(attribute: Callable[[gs.Node], bool]) -> Callable[[gs.Node], str | None]:
    def why_not(node: gs.Node) -> str | None:
        unknown = attribute(node) and _type(node) is None
        return f"the type of {node.inputs[0].name!r}, which its constants need, is not known" if unknown else None

    return why_not


def _no_ratio(node: gs.Node, names: Names) -> None:
    del names
    node.attrs.pop("ratio", None)  # means nothing at inference


def _per_channel(node: gs.Node, names: Names) -> None:
    del names
    node.attrs.pop("spatial", None)


def _not_per_channel(node: gs.Node) -> str | None:
    return None if node.attrs.get("spatial", 1) else "its statistics are those of single activations (spatial=0)"


def _renamed(op: str) -> Rewrite:
    def rewrite(node: gs.Node, names: Names) -> None:
        del names
        node.op = op

    return rewrite


def _resize(node: gs.Node, names: Names) -> None:
    """Resize of opset 10 and Upsample: sizes are multiplied, and positions divided, by `scales`."""
    _to_input(node, names, "scales", np.float32)
    node.op = "Resize"
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if node.attrs.get("mode", "nearest") == "nearest":
        node.attrs["nearest_mode"] = "floor"
    node.inputs.insert(1, gs.Variable.empty())


def _rounds_unsaid(node: gs.Node) -> str | None:
    """The nearest of two pixels was never specified; runtimes agree where nothing shrinks."""
    if node.attrs.get("mode", "nearest") != "nearest":
        return None
    scales = node.attrs.get("scales")
    if scales is None and is_known(node.inputs[1]):
        scales = peek(node.inputs[1])
    grows = scales is not None and bool(np.all(np.asarray(scales) >= 1))
    return None if grows else "which pixel is the nearest one was not specified where a size shrinks"


def _newer_softmax(node: gs.Node, names: Names) -> None:
    del names
    node.attrs["axis"] = node.attrs.get("axis", 1)


def _over_many_axes(node: gs.Node) -> str | None:
    """Before 13 all axes from `axis` on were one; since then `axis` stands alone."""
    shape, axis = node.inputs[0].shape, node.attrs.get("axis", 1)
    if axis == -1:
        return None
    if shape is None:
        return f"it spans the axes from {axis} on, and the rank of {node.inputs[0].name!r} is not known"
    behind = list(shape)[axis:][1:]
    return None if all(size == 1 for size in behind) else f"it spans the axes from {axis} on at once"


def _ended_mode(node: gs.Node) -> str | None:
    mode = node.attrs.get("coordinate_transformation_mode")
    return "tf_half_pixel_for_nn has ended" if mode == "tf_half_pixel_for_nn" else None


def left(reason: str | Callable[[gs.Node], str | None]) -> Change:
    """For operators of which some uses, or all, have no newer form: nothing is rewritten, or the model is left."""

    def rewrite(node: gs.Node, names: Names) -> None:
        del node, names

    return Change(rewrite, reason if callable(reason) else lambda _: reason)


CHANGES: dict[tuple[str, int], Change] = {
    ("Upsample", 10): Change(_resize, _rounds_unsaid),
    ("BatchNormalization", 9): Change(_per_channel, _not_per_channel),
    ("Scan", 9): left("its sequence lengths have ended"),
    ("Slice", 10): Change(_to_inputs("starts", "ends", "axes")),
    ("TopK", 10): Change(_top_k),
    ("Clip", 11): Change(_bounds, _untyped(lambda node: bool({"min", "max"} & set(node.attrs)))),
    ("Pad", 11): Change(_padding, _untyped(lambda node: bool(node.attrs.get("value", 0.0)))),
    ("Resize", 11): Change(_resize, _rounds_unsaid),
    ("Scatter", 11): Change(_renamed("ScatterElements")),
    ("Dropout", 12): Change(_no_ratio),
    ("ReduceSum", 13): Change(axes_to_input),
    ("Resize", 13): left(_ended_mode),
    ("Split", 13): Change(_to_inputs("split")),
    ("Squeeze", 13): Change(axes_to_input),
    ("Unsqueeze", 13): Change(axes_to_input),
    **{(op, 13): Change(_newer_softmax, _over_many_axes) for op in ("Softmax", "LogSoftmax", "Hardmax")},
}
"""Operators that changed their meaning or form from opset 8 to 13: what rewrites them, or why they are left."""
