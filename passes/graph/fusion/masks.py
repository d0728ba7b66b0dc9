"""Attention masks: between which bounds their values lie, and the form that attention kernels read."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.fusion.attention_parts import shapes_of
from enginery.passes.graph.fusion.windows import tiled, window_layer, window_objection
from enginery.passes.graph.matcher import Match, OneOf, Op, Pattern, Scalar, Var
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, nbytes, numpy_dtype, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

Bounds = tuple[float, float]

UNKNOWN: Bounds = (-math.inf, math.inf)
_LARGEST = 64 << 20  # bytes of a constant that is worth reading
_DEPTH = 24

LOWEST = -1e30
"""What masks hide with here. ONNX Runtime gives 0 for a row in which every score is at most the lowest float, where a
softmax gives the mean; at -1e30 it is a softmax again, and exp() of it is 0 all the same."""


def bounds(tensor: gs.Tensor, depth: int = _DEPTH) -> Bounds:
    """The lowest and highest value that a tensor can hold, by how it is made; infinities where that is not known."""
    if tensor.dtype is not None and numpy_dtype(tensor).kind == "b":
        return 0.0, 1.0
    if is_known(tensor):
        if nbytes(tensor) > _LARGEST or int(np.prod(tensor.shape)) == 0:
            return UNKNOWN
        values = peek(tensor).astype(np.float64)
        return float(values.min()), float(values.max())
    node = producer(tensor)
    rule = _RULES.get(node.op) if node is not None and not node.domain else None
    if node is None or rule is None or depth == 0:
        return UNKNOWN
    return rule([bounds(each, depth - 1) for each in node.inputs if not each.is_empty()])


def _products(parts: list[Bounds]) -> Bounds:
    values = [a * b if a and b else 0.0 for a, b in product(*parts)]
    return min(values), max(values)


def _union(parts: list[Bounds]) -> Bounds:
    return min(low for low, _ in parts), max(high for _, high in parts)


_HANDS_ON = (
    *("Cast", "Expand", "Gather", "Identity", "Reshape", "Slice"),
    *("Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
)
_RULES: dict[str, Callable[[list[Bounds]], Bounds]] = {
    **dict.fromkeys(_HANDS_ON, lambda parts: parts[0]),
    "Trilu": lambda parts: _union([parts[0], (0.0, 0.0)]),
    "Where": lambda parts: _union(parts[1:]),
    "Concat": _union,
    "Add": lambda parts: (parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]),
    "Sub": lambda parts: (parts[0][0] - parts[1][1], parts[0][1] - parts[1][0]),
    "Neg": lambda parts: (-parts[0][1], -parts[0][0]),
    "Mul": _products,
    "Max": lambda parts: (max(low for low, _ in parts), max(high for _, high in parts)),
    "Min": lambda parts: (min(low for low, _ in parts), min(high for _, high in parts)),
    "Sigmoid": lambda _: (0.0, 1.0),
    "Tanh": lambda _: (-1.0, 1.0),
}
"""The bounds of an op's output from those of its inputs."""


LAYERS = (1, 2, 3)
_HIDING = -1e8
"""A finite floor at or below this hides a score whatever it is; `scores + floor` and `floor` are the same float."""
_HIDING_HALF = -6e4  # float16 ends at -65504


def layer(inner: Pattern, number: int) -> Pattern:
    """`inner`, or one thing that is done to scores: some are replaced by a floor, or masks or biases are added."""
    kept, hidden, floor = Var(f"kept_{number}"), Var(f"hidden_{number}"), Scalar(name=f"floor_{number}")
    return OneOf(
        Op("Where", kept, inner, floor),
        Op("Where", hidden, floor, inner),
        Op("Add", inner, Var(f"mask_{number}")),
        window_layer(inner, number),
        inner,
    )


def mask_objection(match: Match, scores: gs.Tensor) -> str | None:
    """Why the layers of a match are no additive mask over scores of the type of `scores`; None when they are."""
    half = numpy_dtype(scores) == np.float16
    for number in LAYERS:
        if f"floor_{number}" in match:
            floor = match.scalar(f"floor_{number}")
            if floor > (_HIDING_HALF if half else _HIDING):
                return f"hidden scores become {floor:g}, which does not hide them"
            boolean = match[f"kept_{number}" if f"kept_{number}" in match else f"hidden_{number}"]
            if objection := _widens(match, boolean):
                return objection
        if f"mask_{number}" in match:
            mask = match[f"mask_{number}"]
            dims = dims_of(mask)
            if dims is None or not 2 <= len(dims) <= len(dims_of(scores) or ()):
                return f"the mask {mask.name!r} has {'unknown rank' if dims is None else f'rank {len(dims)}'}"
            if mask.dtype != scores.dtype:
                return f"the mask {mask.name!r} is {mask.dtype}"
            if objection := _widens(match, mask):
                return objection
        if f"windows_{number}" in match and (objection := window_objection(match, number)):
            return objection
    return None


def _widens(match: Match, mask: gs.Tensor) -> str | None:
    """Why a mask would make more scores out of those that there are, as it may in an `Add` or a `Where`."""
    queries, keys, _ = shapes_of(match)
    scores, dims = (*queries[:-1], keys[-2]), match.shapes.dims(mask)
    if dims is None:
        return None
    pairs = zip(reversed(scores), reversed(dims), strict=False)
    if len(dims) <= len(scores) and not any(size == 1 != given for size, given in pairs):
        return None
    return f"the mask {mask.name!r} of shape {dims} makes more of scores of shape {scores}"


def may_hide_rows(match: Match) -> bool:
    """Whether a row of scores can become -inf throughout, so that its softmax is NaN."""
    floors = [match.scalar(f"floor_{number}") for number in LAYERS if f"floor_{number}" in match]
    added = (f"{kind}_{number}" for kind in ("mask", "windows") for number in LAYERS)
    lows = [bounds(match[name])[0] for name in added if name in match]
    return not all(map(math.isfinite, (*floors, *lows)))


def only_mask(match: Match) -> gs.Tensor | None:
    """The mask that is added, where that is the only layer."""
    layers = [name for name in match.tensors if name.startswith(("mask_", "windows_", "floor_"))]
    return match[layers[0]] if len(layers) == 1 and layers[0].startswith("mask_") else None


def zero_hidden_rows(match: Match, made: gs.Tensor, edits: Edits) -> gs.Tensor:
    """The result of attention, with 0 in the rows that the only mask hides entirely with -inf."""
    mask, at = only_mask(match), match.root
    assert mask is not None
    dtype = numpy_dtype(mask)
    dims = dims_of(mask)
    last = edits.constant("last", np.array([-1]))
    best = edits.node("ReduceMax", [mask, last], at=at, name=f"{mask.name}/best")
    best.dtype, best.shape = dtype, None if dims is None else [*dims[:-1], 1]
    nothing = edits.constant("hidden", np.array(-np.inf, dtype))
    hidden = edits.node("Equal", [best, nothing], at=at, name=f"{mask.name}/hides")
    hidden.dtype, hidden.shape = np.dtype(bool), best.shape
    zero = edits.constant("zero", np.array(0, dtype))
    return edits.node("Where", [hidden, zero, made], at=at, like=match.output, name=f"{label(at)}/shown")


def additive(match: Match, scores: gs.Tensor, edits: Edits) -> gs.Tensor | None:
    """What the layers come to for a score of 0, with nothing below LOWEST: one mask to add. None without layers."""
    made: gs.Tensor | None = None
    for number in LAYERS:
        if f"mask_{number}" in match or f"windows_{number}" in match:
            windows = f"windows_{number}" in match
            mask = tiled(match, number, scores, edits) if windows else match[f"mask_{number}"]
            mask = _raised_choice(mask, match.root, edits)
            made = mask if made is None else _added(made, mask, match.root, edits)
        elif f"floor_{number}" in match:
            keeps = f"kept_{number}" in match
            boolean = match[f"kept_{number}" if keeps else f"hidden_{number}"]
            floor = match.scalar(f"floor_{number}")
            made = _hiding(boolean, floor, made, scores, keeps=keeps, at=match.root, edits=edits)
    return None if made is None else _raised(made, match.root, edits)


def _hiding(
    boolean: gs.Tensor,
    floor: float,
    mask: gs.Tensor | None,
    scores: gs.Tensor,
    *,
    keeps: bool,
    at: gs.Node,
    edits: Edits,
) -> gs.Tensor:
    """`mask` (or 0) where a score is kept, and `floor`, but at least LOWEST, where it is hidden."""
    dtype = numpy_dtype(scores)
    shown = edits.constant(f"{boolean.name}/kept", np.array(0, dtype)) if mask is None else mask
    hide = edits.constant(f"{boolean.name}/hidden", np.array(_floor(floor, dtype), dtype))
    choices = [shown, hide] if keeps else [hide, shown]
    made = edits.node("Where", [boolean, *choices], at=at, name=f"{boolean.name}/additive")
    made.dtype = dtype
    made.shape = boolean.shape if mask is None else _broadcast(boolean, mask)
    return made


def _raised_choice(mask: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    """A mask that chooses between constants, with none of them below LOWEST; others as they are.

    What two masks hide twice would otherwise be -inf, and not the sum that it is compared with.
    """
    node = producer(mask)
    low = np.array(_floor(-math.inf, numpy_dtype(mask)), numpy_dtype(mask))
    if bounds(mask)[0] >= low or node is None or node.op != "Where" or not all(map(is_known, node.inputs[1:])):
        return mask
    choices = [
        edits.constant(f"{each.name}/raised", np.maximum(peek(each), low)) for each in node.inputs[1:] if is_known(each)
    ]
    return edits.node("Where", [node.inputs[0], *choices], at=at, like=mask, name=f"{label(node)}/raised")


def _raised(mask: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    """The mask with nothing below LOWEST for every layer: itself where that is known, else a Max that sees to it."""
    dtype = numpy_dtype(mask)
    least = _HIDING_HALF if dtype == np.float16 else LOWEST * len(LAYERS)  # in float16, a sum of layers may be -inf
    if bounds(mask)[0] >= least:
        return mask
    floor = edits.constant(f"{mask.name}/floor", np.array(least, dtype))
    return edits.node("Max", [mask, floor], at=at, like=mask, name=f"{mask.name}/raised")


def _added(one: gs.Tensor, other: gs.Tensor, at: gs.Node, edits: Edits) -> gs.Tensor:
    """The sum of two masks that broadcast against each other."""
    made = edits.node("Add", [one, other], at=at, name=f"{other.name}/added")
    made.dtype, made.shape = one.dtype, _broadcast(one, other)
    return made


def _broadcast(one: gs.Tensor, other: gs.Tensor) -> list[int | str | None] | None:
    """The shape of an elementwise operation on two tensors."""
    shapes = [dims_of(each) for each in (one, other)]
    if shapes[0] is None or shapes[1] is None:
        return None
    rank = max(map(len, (shapes[0], shapes[1])))
    padded = [(1,) * (rank - len(dims)) + dims for dims in (shapes[0], shapes[1])]
    return [b if a == 1 else a for a, b in zip(*padded, strict=True)]


def _floor(value: float, dtype: np.dtype[Any]) -> float:
    """The least value to hide with."""
    return max(value, _HIDING_HALF if dtype == np.float16 else LOWEST)


def expanded(
    mask: gs.Tensor, queries: gs.Tensor, keys: gs.Tensor, shapes: ShapeValues, at: gs.Node, edits: Edits
) -> gs.Tensor:
    """The mask over (..., query length, key length); kernels broadcast it over batch and heads, not over lengths."""
    dims, wanted = shapes.dims(mask), [shapes.dims(each) for each in (queries, keys)]
    if dims is not None and list(dims[-2:]) == [each[2] for each in wanted if each is not None]:
        return mask
    sizes = [
        edits.node("Shape", [each], at=at, attrs={"start": 2, "end": 3}, name=f"{each.name}/length")
        for each in (queries, keys)
    ]
    for size in sizes:
        size.dtype, size.shape = np.dtype(np.int64), [1]
    lengths = edits.node("Concat", sizes, at=at, attrs={"axis": 0}, name=f"{label(at)}/lengths")
    lengths.dtype, lengths.shape = np.dtype(np.int64), [2]
    made = edits.node("Expand", [mask, lengths], at=at, name=f"{mask.name}/expanded")
    leading = list(dims_of(mask) or ())[:-2]
    made.dtype = mask.dtype
    made.shape = [*leading, *((dims_of(each) or (None,) * 4)[2] for each in (queries, keys))]
    return made
