"""What the recognition of normalizations shares: reductions over the last axis, and their scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enginery.passes.graph.matcher import Match, OneOf, Op, Pattern, Scalar, Var
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def mean_of(pattern: Pattern, name: str) -> Pattern:
    """A mean whose node is bound to `name`: its axes are an attribute before opset 18 and an input after it."""
    return OneOf(Op("ReduceMean", pattern, Var(f"{name}_axes"), name=name), Op("ReduceMean", pattern, name=name))


def square_of(pattern: Pattern) -> Pattern:
    return OneOf(Op("Pow", pattern, Scalar(2)), Op("Mul", pattern, pattern))


def over_root_of(numerator: Pattern, pattern: Pattern) -> Pattern:
    """Numerator / sqrt(pattern), as a quotient or a product with the inverse."""
    root = Op("Sqrt", pattern)
    inverse = OneOf(Op("Reciprocal", root), Op("Div", Scalar(1), root), Op("Pow", pattern, Scalar(-0.5)))
    return OneOf(Op("Div", numerator, root), Op("Mul", numerator, inverse))


def over_last_axis(match: Match, name: str) -> str | None:
    """Why the mean called `name` is not one over the last axis that keeps its dimension; None when it is."""
    node = match.named[name]
    dims = dims_of(node.inputs[0])
    if dims is None:
        return f"the rank of {node.inputs[0].name!r} is unknown"
    if not node.attrs.get("keepdims", 1):
        return f"{node.outputs[0].name!r} drops the axis"
    axes = _axes(node)
    return None if axes in ([-1], [len(dims) - 1]) else f"{node.outputs[0].name!r} is a mean over axes {axes}"


def per_channel(tensor: gs.Tensor, channels: int | str | None, what: str) -> str | None:
    """Why a scale or bias is not one number for each channel; None when it is."""
    dims = dims_of(tensor)
    if dims is not None and len(dims) == 1 and dims[0] == channels and isinstance(channels, int):
        return None
    return f"the {what} {tensor.name!r} has shape {dims}, and [{channels}] is needed"


def _axes(node: gs.Node) -> list[int] | None:
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    if len(node.inputs) > 1 and is_known(node.inputs[1]):
        return [int(axis) for axis in peek(node.inputs[1]).reshape(-1)]
    return None
