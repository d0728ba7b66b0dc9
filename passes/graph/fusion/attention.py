"""Softmax attention, in the ways exporters take it apart.

Vaswani et al., "Attention Is All You Need", 2017: softmax(scale * Q K^T + mask) V, for Q, K and V of shape
(batch, heads, length, head size). What is found becomes one `Attention` (opset 23), the canonical form that each
target's lowering starts from; ONNX Runtime has a kernel for it, TensorRT gets it taken apart again, tidily.

    Q ── scale? ──┐
                  MatMul ── scale? ── cap? ── mask layers* ── Softmax ── guard? ── MatMul ── the output
    K ── scale? ──┘                                                                  │
         transpose?                                                            V ────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.edit import label
from enginery.passes.graph.fusion.attention_parts import (
    batch_objection,
    cap_of,
    heads_objection,
    ordered_keys,
    rank_objection,
    scale_objection,
    scale_of,
    scaled_queries,
    shapes_of,
    size_objection,
    softmax_objection,
)
from enginery.passes.graph.fusion.masks import (
    additive,
    expanded,
    layer,
    mask_objection,
    may_hide_rows,
    only_mask,
    zero_hidden_rows,
)
from enginery.passes.graph.fusion.ranks import HEADS, lifted, lowered
from enginery.passes.graph.matcher import Known, Match, OneOf, Op, Pattern, Rule, RulePass, Scalar, Var, maybe

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


# The drawing above, from left to right. torch's decomposition multiplies queries and keys with the square root of the
# scale; eager code scales the scores.
_QUERIES = _scaled(Var("queries"), "queries")
_KEYS = OneOf(
    Op("Transpose", _scaled(Var("keys"), "keys"), name="transposed", shared=True),
    _scaled(Op("Transpose", Var("keys"), name="transposed", shared=True), "keys"),
    _scaled(Var("keys"), "keys"),
)
_PRODUCT = Op("MatMul", _QUERIES, _KEYS, name="scores")
_SCORES = OneOf(_scaled(_PRODUCT, "scores"), Op("Mul", _PRODUCT, Known("by_head")))
_CAPPED = OneOf(Op("Mul", Op("Tanh", _scaled(_SCORES, "capped")), Scalar(name="cap")), _SCORES)
_LOGITS = layer(layer(layer(_CAPPED, 1), 2), 3)
_SOFTMAX = Op("Softmax", maybe("Cast", _LOGITS, name="upcast"), name="softmax")
# torch guards rows in which everything is hidden: their softmax is NaN and becomes 0.
_GUARDED = OneOf(Op("Where", Op("IsNaN", _SOFTMAX, name="guard"), Scalar(0), _SOFTMAX), _SOFTMAX)
_WEIGHTS = maybe("Dropout", maybe("Cast", _GUARDED))
_ATTENTION = Op("MatMul", _WEIGHTS, Var("values"), name="context")


class _Attention(Rule):
    patterns = (_ATTENTION,)
    opset = 23

    def __init__(self, min_heads: int) -> None:
        self._min_heads = min_heads

    def check(self, match: Match) -> str | None:
        return (
            rank_objection(match)
            or batch_objection(match)
            or heads_objection(match, self._min_heads)
            or size_objection(match)
            or softmax_objection(match)
            or scale_objection(match)
            or mask_objection(match, match["queries"])
            or _guard(match)
        )

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        at = match.root
        parts = (scaled_queries(match, edits), ordered_keys(match, edits), match["values"])
        queries, keys, values = (lifted(each, at, edits) for each in parts)
        inputs = [queries, keys, values]
        mask = additive(match, match["queries"], edits)
        if mask is not None:
            # A mask of rank 3 over (batch, heads, ...) has no batches; over (batch, ...) it has no heads.
            mask = lifted(mask, at, edits, axis=HEADS if len(shapes_of(match)[0]) == 3 else 0)
            inputs.append(expanded(mask, queries, keys, match.shapes, at, edits))
        attrs: dict[str, float | int] = {"scale": scale_of(match)}
        if (cap := cap_of(match)) is not None:
            attrs["softcap"] = cap
        if "upcast" in match.named:
            attrs["softmax_precision"] = match.named["upcast"].attrs["to"]
        made = edits.node("Attention", inputs, at=at, takes_name=True, attrs=attrs)
        made = lowered(made, like=match.output, at=at, edits=edits)
        return zero_hidden_rows(match, made, edits) if _needs_guard(match) else made


@dataclass(frozen=True)
class FuseAttention(RulePass):
    """Recognizes softmax attention and writes it as one `Attention` (opset 23).

    1. softmax(scale * Q K^T + mask) V over (batch, heads, length, size) becomes `Attention`; over
       (batch, length, size), attention of one head (`unfold-heads` finds heads that were folded into the batch). The
       scale may be a factor or a divisor, of the scores, of the queries, of the keys, or of several of them: they are
       multiplied. A factor for each head multiplies the queries. cap * tanh(scores / cap) becomes `softcap`.
    2. Up to three layers may lie between the scores and the softmax: a `Where` that replaces scores by a floor, or an
       `Add` of a mask, of a bias of positions, or of a mask for each window of an image, where windows are a part of
       the batch. They become one additive mask, in their order. What hides a score is raised to -1e30, and a mask that
       broadcasts over lengths is expanded: kernels differ on both. A finite floor above -1e8 would not hide a score
       that is added to it, and a mask may have an unknown rank or another type: left. (Refused.)
    3. Transposed keys are read before their transpose; other layouts get a transpose of their own, as do keys that
       are made as (batch, heads, size, length).
    4. The guard against rows that are hidden entirely (`Where(IsNaN(p), 0, p)`) goes where the mask is finite, because
       then no row is NaN. Where one added mask may be -inf throughout a row, that row of the result is set to 0. Other
       layers that may be -inf are left. (Refused.)
    5. Casts of scores and weights around the softmax (half-precision exports) go; `softmax_precision` says in which
       type it is computed.
    6. Batches must be equal, and the heads of keys and values those of the queries, or one that serves them all. Others
       are left. (Refused.) So are fewer than `min_heads`.
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
            for reader in _weighed_products(node):
                if label(reader) not in named:
                    yield Refusal(label(reader), "fuse-attention: its weights come from no known form of attention")


_HANDS_ON = {"Cast", "Dropout", "Reshape", "Where"}
"""What may stand between a softmax and the product that it weighs."""


def _weighed_products(softmax: gs.Node) -> Iterable[gs.Node]:
    pending = list(softmax.outputs[0].outputs)
    for reader in pending:
        if reader.op == "MatMul":
            yield reader
        elif reader.op in _HANDS_ON:
            pending.extend(reader.outputs[0].outputs)


def _needs_guard(match: Match) -> bool:
    """Case 4."""
    return "guard" in match.named and may_hide_rows(match)


def _guard(match: Match) -> str | None:
    if _needs_guard(match) and only_mask(match) is None:
        return "rows that its layers hide entirely give 0 here, and would give NaN"
    return None
