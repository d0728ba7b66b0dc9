"""Softmax attention, in the ways exporters take it apart.

Vaswani et al., "Attention Is All You Need", 2017: softmax(scale * Q K^T + mask) V, for Q, K and V of shape
(batch, heads, length, head size). What is found becomes one `Attention` (opset 23), the canonical form that each
target's lowering starts from; ONNX Runtime has a kernel for it, TensorRT gets it taken apart again, tidily.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.base import Refusal
from enginery.passes.graph.edit import label
from enginery.passes.graph.fusion.masks import added, boolean_to_additive, bounds, expanded, raised
from enginery.passes.graph.matcher import Match, OneOf, Op, Pattern, Rule, RulePass, Scalar, Var, maybe
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


def _scaled(inner: Pattern, name: str) -> Pattern:
    """`inner`, or a product or quotient of it and a number."""
    return OneOf(
        Op("Mul", inner, Scalar(name=f"{name}_times")),
        Op("Div", inner, Scalar(name=f"{name}_over")),
        inner,
    )


# softmax(scale * Q K^T + mask) V, written from the inside out. The scale may stand on the scores, or in part on the
# queries and the keys (torch's decomposition multiplies both with its square root).
_QUERIES = _scaled(Var("queries"), "queries")
_KEYS = OneOf(
    Op("Transpose", _scaled(Var("keys"), "keys"), name="transposed", shared=True),
    _scaled(Op("Transpose", Var("keys"), name="transposed", shared=True), "keys"),
)
_SCORES = _scaled(Op("MatMul", _QUERIES, _KEYS, name="scores"), "scores")
_LOGITS = OneOf(
    Op("Where", Var("kept"), _SCORES, Scalar(name="floor")),
    Op("Where", Var("hidden"), Scalar(name="floor"), _SCORES),
    Op("Add", Op("Add", _SCORES, Var("bias"), name="biased"), Var("mask")),
    Op("Add", _SCORES, Var("mask")),
    _SCORES,
)
_SOFTMAX = Op("Softmax", maybe("Cast", _LOGITS, name="upcast"), name="softmax")
# torch guards rows in which everything is hidden: their softmax is NaN and becomes 0.
_GUARDED = OneOf(Op("Where", Op("IsNaN", _SOFTMAX, name="guard"), Scalar(0), _SOFTMAX), _SOFTMAX)
_WEIGHTS = maybe("Dropout", maybe("Cast", _GUARDED))
_ATTENTION = Op("MatMul", _WEIGHTS, Var("values"), name="context")

_HIDING = -1e8
"""A finite floor at or below this hides a score whatever it is; `scores + floor` and `floor` are the same float."""
_HIDING_HALF = -6e4  # float16 ends at -65504


class _Attention(Rule):
    patterns = (_ATTENTION,)
    opset = 23

    def __init__(self, min_heads: int) -> None:
        self._min_heads = min_heads

    def check(self, match: Match) -> str | None:
        shapes = {name: match.dims(name) for name in ("queries", "keys", "values")}
        for name, dims in shapes.items():
            if dims is None or len(dims) != 4:
                rank = "unknown rank" if dims is None else f"rank {len(dims)}"
                return f"{name} {match[name].name!r} have {rank}, and (batch, heads, length, size) is needed"
        return (
            self._heads(match)
            or _softmax_axis(match)
            or _key_order(match)
            or _scale_sign(match)
            or _mask(match)
            or _guard(match)
        )

    def _heads(self, match: Match) -> str | None:
        queries, keys, values = (match.dims(name) for name in ("queries", "keys", "values"))
        assert queries is not None
        assert keys is not None
        assert values is not None
        order = _keys_order(match)
        keys = tuple(keys[axis] for axis in order)
        if queries[0] != keys[0] or keys[0] != values[0]:
            return f"the batches of queries, keys and values are {queries[0]}, {keys[0]} and {values[0]}"
        if queries[1] != keys[1] or keys[1] != values[1] or not isinstance(queries[1], int):
            return f"the heads of queries, keys and values are {queries[1]}, {keys[1]} and {values[1]}"
        if queries[1] < self._min_heads:
            return f"it has {queries[1]} heads, fewer than min_heads={self._min_heads}"
        return None

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        queries, keys = match["queries"], _keys(match, edits)
        inputs = [queries, keys, match["values"]]
        mask = _additive_mask(match, edits)
        if mask is not None:
            inputs.append(expanded(mask, queries, keys, match.shapes, match.root, edits))
        attrs: dict[str, float | int] = {"scale": _scale(match)}
        if "upcast" in match.named:
            attrs["softmax_precision"] = match.named["upcast"].attrs["to"]
        return edits.node("Attention", inputs, at=match.root, takes_name=True, like=match.output, attrs=attrs)


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Recognizes softmax attention and writes it as one `Attention` (opset 23).

    1. softmax(scale * Q K^T + mask) V over (batch, heads, length, size) becomes `Attention`. The scale may be a factor
       or a divisor, of the scores, of the queries, of the keys, or of several of them; they are multiplied.
    2. The mask is an additive tensor, or a `Where` that replaces scores by a floor. A boolean mask becomes an additive
       one; a finite floor above -1e8 would not hide a score that is added to it. (Refused.) What hides a score is
       raised to -1e30, and a mask that broadcasts over lengths is expanded: kernels differ on both.
       A bias of relative positions before the mask is added to it first.
    3. Transposed keys are read before their transpose; other layouts get a transpose of their own.
    4. The guard against rows that are hidden entirely (`Where(IsNaN(p), 0, p)`) goes where the mask is finite, because
       then no row is NaN. Where -inf is possible the fused form would give NaN instead of 0. (Refused.)
    5. Casts of scores and weights around the softmax (half-precision exports) go; `softmax_precision` says in which
       type it is computed.
    6. Batches and heads must be equal; unknown or different ones are left. (Refused.) So are fewer than `min_heads`.
    7. Scores or weights that something else reads, such as a graph output, keep the whole. (Refused.)
    8. A softmax that weighs a product and is part of no form above is named. (Refused.)
    """

    name: ClassVar[str] = "fuse-attention"
    tolerance: ClassVar[float] = 1e-5

    min_heads: int = 1

    def rules(self) -> tuple[Rule, ...]:
        return (_Attention(self.min_heads),)

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        refused = list(super().edit(edits))
        yield from refused
        if not edits.changed:
            yield from _unrecognized(edits, {refusal.node for refusal in refused})


def _unrecognized(edits: Edits, named: set[str]) -> Iterable[Refusal]:
    """Case 8."""
    for node in edits.graph.nodes:
        if node.op == "Softmax" and not node.domain:
            for reader in node.outputs[0].outputs:
                if reader.op == "MatMul" and label(reader) not in named:
                    yield Refusal(label(reader), "fuse-attention: its weights come from no known form of attention")


def _softmax_axis(match: Match) -> str | None:
    """The softmax must run over the keys, the last dimension."""
    axis = match.named["softmax"].attrs.get("axis", -1)
    return None if axis in (-1, 3) else f"its softmax runs over axis {axis}, not over the keys"


def _keys_order(match: Match) -> list[int]:
    """The order that turns what the transpose reads into (batch, heads, length, size)."""
    order = match.named["transposed"].attrs["perm"]
    return [order[0], order[1], order[3], order[2]]


def _key_order(match: Match) -> str | None:
    queries, keys = match.dims("queries"), match.dims("keys")
    assert queries is not None
    assert keys is not None
    size = keys[_keys_order(match)[3]]
    return None if size == queries[3] else f"queries have size {queries[3]} and keys {size}"


def _keys(match: Match, edits: Edits) -> gs.Tensor:
    order = _keys_order(match)
    if order == [0, 1, 2, 3]:
        return match["keys"]
    made = edits.node(
        "Transpose", [match["keys"]], at=match.root, attrs={"perm": order}, name=f"{label(match.root)}/keys"
    )
    dims = dims_of(match["keys"])
    assert dims is not None
    made.dtype, made.shape = match["keys"].dtype, [dims[axis] for axis in order]
    return made


def _scale(match: Match) -> float:
    """Every factor over every divisor."""
    factors = [match.scalar(f"{part}_times") for part in ("queries", "keys", "scores") if f"{part}_times" in match]
    divisors = [match.scalar(f"{part}_over") for part in ("queries", "keys", "scores") if f"{part}_over" in match]
    return math.prod(factors) / math.prod(divisors)


def _scale_sign(match: Match) -> str | None:
    scale = _scale(match)
    return None if math.isfinite(scale) and scale > 0 else f"its scale is {scale}"


def _mask(match: Match) -> str | None:
    if "floor" in match:
        floor = match.scalar("floor")
        half = numpy_dtype(match["queries"]) == np.float16
        return (
            None
            if floor <= (_HIDING_HALF if half else _HIDING)
            else f"hidden scores become {floor:g}, which does not hide them"
        )
    for name in ("mask", "bias"):
        if name not in match:
            continue
        mask, dims = match[name], dims_of(match[name])
        if dims is None or not 2 <= len(dims) <= 4:
            return f"the {name} {mask.name!r} has {'unknown rank' if dims is None else f'rank {len(dims)}'}"
        if mask.dtype != match["queries"].dtype:
            return f"the {name} {mask.name!r} is {mask.dtype}"
    return None


def _guard(match: Match) -> str | None:
    """Case 4."""
    if "guard" not in match.named:
        return None
    if "floor" in match:
        finite = math.isfinite(match.scalar("floor"))
    else:
        finite = all(math.isfinite(bounds(match[name])[0]) for name in ("mask", "bias") if name in match)
    return None if finite else "rows that the mask hides entirely give 0 here, and would give NaN"


def _additive_mask(match: Match, edits: Edits) -> gs.Tensor | None:
    """Case 2."""
    if "bias" in match:
        return raised(added(match["bias"], match["mask"], match.root, edits), match.root, edits)
    if "mask" in match:
        return raised(match["mask"], match.root, edits)
    if "floor" not in match:
        return None
    boolean, keeps = (match["kept"], True) if "kept" in match else (match["hidden"], False)
    return boolean_to_additive(boolean, match.scalar("floor"), keeps=keeps, at=match.root, edits=edits)
