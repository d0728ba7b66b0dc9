"""Rotary position embedding, as exporters take it apart.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, in the layout in which the two halves
of a head are the pairs (Llama, GPT-NeoX).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.edit import label, producer
from enginery.passes.graph.matcher import Match, Op, Rule, RulePass, Var
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.symbolic import ShapeValues
from enginery.passes.graph.weights import is_known, peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_X = Var("x")
_BOUNDS = ("start", "end", "axis", "step")


def _part(name: str) -> Op:
    bounds = (Var(f"{name}_{part}") for part in _BOUNDS)
    return Op("Slice", _X, *bounds, name=name)


_TURNED = Op("Concat", Op("Neg", _part("second")), _part("first"), name="turned")
_ROTATED = Op("Add", Op("Mul", _X, Var("cos")), Op("Mul", _TURNED, Var("sin")))

_ELEMENTWISE = {"Cos", "Sin", "Cast", "Identity", "Neg"}


class _Rotary(Rule):
    patterns = (_ROTATED,)
    opset = 23

    def check(self, match: Match) -> str | None:
        dims = match.dims("x")
        if dims is None or len(dims) != 4 or not isinstance(dims[1], int) or not isinstance(dims[3], int):
            return f"{match['x'].name!r} has shape {dims}; (batch, heads, length, size) with fixed heads is needed"
        return (
            _halves(match, dims[3])
            or _angles(match, match["cos"], "Cos", dims[3])
            or _angles(match, match["sin"], "Sin", dims[3])
        )

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        dims = dims_of(match["x"])
        assert dims is not None
        assert isinstance(dims[3], int)
        caches = [_cache(match[name], dims[3] // 2, match, edits) for name in ("cos", "sin")]
        inputs = [match["x"], *caches]
        return edits.node("RotaryEmbedding", inputs, at=match.root, takes_name=True, like=match.output)


@dataclass(frozen=True)
class FuseRotary(RulePass):
    """Recognizes rotary embedding and writes it as one `RotaryEmbedding` (opset 23).

    1. x * cos + concat(-x[half:], x[:half]) * sin over (batch, heads, length, size) becomes one node. Its caches are
       the first halves of cos and sin, expanded over the batch: kernels index them by batch, and a cache of batch 1
       is read out of bounds or refused.
    2. cos and sin must be shown to repeat their first half: made elementwise from Concat(f, f). Others, such as
       tables from outside, are left. (Refused.)
    3. Rotations of a part of the head, or of another rank, are left. (Refused.)
    4. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-rotary"

    def rules(self) -> tuple[Rule, ...]:
        return (_Rotary(),)


def _halves(match: Match, size: int) -> str | None:
    """The two slices must be the first and the second half of the last axis."""
    if match.named["turned"].attrs["axis"] not in (-1, 3):
        return f"the halves are joined along axis {match.named['turned'].attrs['axis']}"
    for name, start, least in (("first", 0, size // 2), ("second", size // 2, size)):
        values = [match[f"{name}_{part}"] for part in _BOUNDS]
        if not all(is_known(each) for each in values):
            return f"the bounds of {label(match.named[name])!r} are no constants"
        got = [int(match.values(f"{name}_{part}").reshape(()).item()) for part in _BOUNDS]
        if got[0] != start or min(got[1], size) != least or got[2] not in (-1, 3) or got[3] != 1:
            return f"{label(match.named[name])!r} is not the {name} half of the head"
    return None


def _angles(match: Match, tensor: gs.Tensor, function: str, size: int) -> str | None:
    """Case 2."""
    dims = match.shapes.dims(tensor)
    if dims is None or len(dims) != 4 or dims[1] != 1 or dims[3] != size:
        return f"{tensor.name!r} has shape {dims}; (batch, 1, length, {size}) is needed"
    node, seen = producer(tensor), False
    while node is not None and not node.domain:
        seen |= node.op == function
        if node.op == "Concat":
            twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
            last = node.attrs["axis"] in (-1, len(dims_of(node.outputs[0]) or ()) - 1)
            return None if twice and last and seen else f"{label(node)!r} does not join two equal halves"
        step = _step_back(node, match.shapes)
        if step is None:
            break
        node = producer(step)
    return f"{tensor.name!r} is not shown to repeat its first half"


def _step_back(node: gs.Node, shapes: ShapeValues) -> gs.Tensor | None:
    """The tensor whose last axis the node hands on elementwise."""
    if node.op in _ELEMENTWISE:
        return node.inputs[0]
    if node.op == "Mul":  # a scaling of the angles or of their cosines
        return next((one for one, other in (node.inputs, node.inputs[::-1]) if _one_number(other)), None)
    if node.op == "Unsqueeze" and is_known(node.inputs[1]):
        rank = len(shapes.dims(node.outputs[0]) or ())
        return node.inputs[0] if all(axis % rank != rank - 1 for axis in peek(node.inputs[1]).tolist()) else None
    return None


def _one_number(tensor: gs.Tensor) -> bool:
    return is_known(tensor) and int(np.prod(tensor.shape)) == 1


def _cache(table: gs.Tensor, half: int, match: Match, edits: Edits) -> gs.Tensor:
    """(batch or 1, 1, length, size) to (batch, length, size / 2)."""
    at, x = match.root, match["x"]
    zero, one, two, stop = (edits.constant("rotary", np.array([value])) for value in (0, 1, 2, half))
    dims, given = dims_of(table), dims_of(x)
    assert dims is not None
    assert given is not None
    flat = edits.node("Squeeze", [table, one], at=at, name=f"{table.name}/flat")
    flat.dtype, flat.shape = table.dtype, [dims[0], *dims[2:]]
    first = edits.node("Slice", [flat, zero, stop, two], at=at, name=f"{table.name}/half")
    first.dtype, first.shape = table.dtype, [dims[0], dims[2], half]
    if dims[0] is not None and dims[0] == given[0]:
        return first
    batch = edits.node("Shape", [x], at=at, attrs={"start": 0, "end": 1}, name=f"{x.name}/batch")
    batch.dtype, batch.shape = np.dtype(np.int64), [1]
    wanted = edits.node("Concat", [batch, one, one], at=at, attrs={"axis": 0}, name=f"{table.name}/shape")
    wanted.dtype, wanted.shape = np.dtype(np.int64), [3]
    made = edits.node("Expand", [first, wanted], at=at, name=f"{table.name}/cache")
    made.dtype, made.shape = table.dtype, [given[0], dims[2], half]
    return made
