"""Rotary position embedding, as exporters take it apart.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. The numbers that are turned together
are the two halves of a head (Llama, GPT-NeoX), or neighbours (RoFormer, GPT-J, GLM, Cohere).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.edit import label
from enginery.passes.graph.fusion.rotary_tables import Layout, cache, repeats
from enginery.passes.graph.matcher import Match, Op, Rule, RulePass, Var
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_X = Var("x")
_BOUNDS = ("start", "end", "axis", "step")


def _part(name: str) -> Op:
    bounds = (Var(f"{name}_{part}") for part in _BOUNDS)
    return Op("Slice", _X, *bounds, name=name)


def _rotated(turned: Op) -> Op:
    return Op("Add", Op("Mul", _X, Var("cos")), Op("Mul", turned, Var("sin")))


def _column(inner: Op, name: str) -> Op:
    return Op("Unsqueeze", inner, Var(f"{name}_axes"), name=f"{name}_column")


_HALVES = _rotated(Op("Concat", Op("Neg", _part("second")), _part("first"), name="turned"))
_NEIGHBOURS = _rotated(
    Op(
        "Reshape",
        Op("Concat", _column(Op("Neg", _part("second")), "second"), _column(_part("first"), "first"), name="turned"),
        Var("shape"),
        name="joined",
    )
)


class _Rotary(Rule):
    """What the two kinds of pairs share. `interleaved` says that neighbours are turned together."""

    opset = 23
    interleaved: ClassVar[bool]

    def check(self, match: Match) -> str | None:
        dims = match.dims("x")
        layout = _layout(match)
        if dims is None or layout is None or not isinstance(dims[layout.heads], int) or not isinstance(dims[3], int):
            return f"{match['x'].name!r} has shape {dims}; (batch, heads, length, size) with fixed heads is needed"
        return (
            self.pairs(match, dims[3])
            or repeats(match, match["cos"], layout, dims[3], neighbours=self.interleaved)
            or repeats(match, match["sin"], layout, dims[3], neighbours=self.interleaved)
        )

    @abstractmethod
    def pairs(self, match: Match, size: int) -> str | None:
        """Why the slices are not the two numbers of each pair; None when they are."""

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        dims, layout, at, x = dims_of(match["x"]), _layout(match), match.root, match["x"]
        assert dims is not None
        assert layout is not None
        size = dims[3]
        assert isinstance(size, int)
        tables = [
            cache(match[name], x, layout, size // 2, neighbours=self.interleaved, at=at, edits=edits)
            for name in ("cos", "sin")
        ]
        attrs: dict[str, int] = {"interleaved": 1} if self.interleaved else {}
        if layout is Layout.HEADS_FIRST:
            return edits.node("RotaryEmbedding", [x, *tables], at=at, takes_name=True, like=match.output, attrs=attrs)
        heads = dims[layout.heads]
        assert isinstance(heads, int)
        merged = edits.constant(f"{label(at)}/merged", np.array([0, 0, heads * size]))
        flat = edits.node("Reshape", [x, merged], at=at, name=f"{x.name}/merged")
        flat.dtype, flat.shape = x.dtype, [dims[0], dims[1], heads * size]
        made = edits.node(
            "RotaryEmbedding", [flat, *tables], at=at, takes_name=True, like=flat, attrs={**attrs, "num_heads": heads}
        )
        split = edits.constant(f"{label(at)}/split", np.array([0, 0, heads, size]))
        return edits.node("Reshape", [made, split], at=at, like=match.output)


class _Halves(_Rotary):
    patterns = (_HALVES,)
    interleaved = False

    def pairs(self, match: Match, size: int) -> str | None:
        if match.named["turned"].attrs["axis"] not in (-1, 3):
            return f"the halves are joined along axis {match.named['turned'].attrs['axis']}"
        return _slices(match, size, {"first": (0, size // 2, 1), "second": (size // 2, size, 1)}, "half of the head")


class _Neighbours(_Rotary):
    patterns = (_NEIGHBOURS,)
    interleaved = True

    def pairs(self, match: Match, size: int) -> str | None:
        for name in ("first", "second"):
            axes = match.shapes.vector(match[f"{name}_axes"])
            if axes not in ((-1,), (4,)):
                return f"the {name} numbers are joined along axis {axes}, not as neighbours"
        if match.named["turned"].attrs["axis"] not in (-1, 4):
            return f"the neighbours are joined along axis {match.named['turned'].attrs['axis']}"
        if match.shapes.dims(match.named["joined"].outputs[0]) != match.dims("x"):
            return f"{label(match.named['joined'])!r} does not give back the shape of {match['x'].name!r}"
        return _slices(match, size, {"first": (0, size, 2), "second": (1, size, 2)}, "neighbour of each pair")


@dataclass(frozen=True)
class FuseRotary(RulePass):
    """Recognizes rotary embedding and writes it as one `RotaryEmbedding` (opset 23).

    1. x * cos + concat(-x[half:], x[:half]) * sin over (batch, heads, length, size) becomes one node. Its caches are
       the first halves of cos and sin, expanded over the batch: kernels index them by batch, and a cache of batch 1
       is read out of bounds or refused.
    2. x * cos + interleave(-x[1::2], x[0::2]) * sin becomes one node with `interleaved`; its caches are every second
       number of cos and sin.
    3. Over (batch, length, heads, size) heads and sizes are merged around the node.
    4. cos and sin must be shown to repeat each number for its pair: made elementwise from Concat(f, f), or for
       neighbours from a stack or an expansion of f. Others, such as tables from outside, are left. (Refused.)
    5. Other slices than the pairs of x, other ranks, and heads that are not fixed are left. (Refused.) A rotation of a
       part of the head is one of the slice that it turns.
    6. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-rotary"

    def rules(self) -> tuple[Rule, ...]:
        return (_Halves(), _Neighbours())


def _layout(match: Match) -> Layout | None:
    """Where the heads are: where the tables are 1."""
    dims, table = match.dims("x"), match.dims("cos")
    if dims is None or table is None or len(dims) != 4 or len(table) != 4:
        return None
    fits = (one for one in Layout if table[one.heads] == 1 and table[one.length] == dims[one.length])
    return next(fits, None)


def _slices(match: Match, size: int, wanted: dict[str, tuple[int, int, int]], what: str) -> str | None:
    for name, (start, stop, step) in wanted.items():
        if not all(is_known(match[f"{name}_{part}"]) for part in _BOUNDS):
            return f"the bounds of {label(match.named[name])!r} are no constants"
        got = [int(match.values(f"{name}_{part}").reshape(()).item()) for part in _BOUNDS]
        if got[0] != start or min(got[1], size) != stop or got[2] not in (-1, 3) or got[3] != step:
            return f"{label(match.named[name])!r} is not the {name} {what}"
    return None
