"""What a match of softmax attention says: shapes, scale, cap, and why one of them does not fit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from enginery.passes.graph.edit import label
from enginery.passes.graph.shapes import dims_of
from enginery.passes.graph.weights import peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits
    from enginery.passes.graph.matcher import Match
    from enginery.passes.graph.symbolic import Vector

_PARTS = ("queries", "keys", "scores")


def shapes_of(match: Match) -> tuple[Vector, Vector, Vector]:
    """The shapes of queries, keys and values, the keys in the order of the queries; `rank_objection` accepted them."""
    queries, keys, values = (match.dims(name) for name in ("queries", "keys", "values"))
    assert queries is not None
    assert keys is not None
    assert values is not None
    return queries, tuple(keys[axis] for axis in _keys_order(match)), values


def _keys_order(match: Match) -> list[int]:
    """The order that turns the keys as they are read into (batch, heads, length, size), or (batch, length, size)."""
    if "transposed" in match.named:
        order = match.named["transposed"].attrs["perm"]
    else:
        order = range(len(dims_of(match["keys"]) or ()))  # they come as (..., size, length)
    *leading, size, length = order
    return [*leading, length, size]


def ordered_keys(match: Match, edits: Edits) -> gs.Tensor:
    """The keys as (batch, heads, length, size): what their transpose reads, or with a transpose of their own."""
    keys, order = match["keys"], _keys_order(match)
    if order == sorted(order):
        return keys
    made = edits.node("Transpose", [keys], at=match.root, attrs={"perm": order}, name=f"{label(match.root)}/keys")
    dims = dims_of(keys)
    assert dims is not None
    made.dtype, made.shape = keys.dtype, [dims[axis] for axis in order]
    return made


def scaled_queries(match: Match, edits: Edits) -> gs.Tensor:
    """The queries, times the factor of each head where the scores have one."""
    queries = match["queries"]
    if "by_head" not in match:
        return queries
    name = f"{queries.name}/scaled"
    return edits.node("Mul", [queries, match["by_head"]], at=match.root, like=queries, name=name)


def cap_of(match: Match) -> float | None:
    """The bound of cap * tanh(scores / cap)."""
    return match.scalar("cap") if "cap" in match else None


def scale_of(match: Match) -> float:
    """Every factor over every divisor; NaN where one of these is 0.

    What a cap divides by and does not multiply with again is part of it.
    """
    factors = [match.scalar(f"{part}_times") for part in _PARTS if f"{part}_times" in match]
    divisors = [match.scalar(f"{part}_over") for part in _PARTS if f"{part}_over" in match]
    cap = cap_of(match)
    if cap is not None:
        factors += [cap, match.scalar("capped_times") if "capped_times" in match else 1.0]
        divisors += [match.scalar("capped_over")] if "capped_over" in match else []
    divisor = math.prod(divisors)
    return math.prod(factors) / divisor if divisor else math.nan


def rank_objection(match: Match) -> str | None:
    ranks: list[int] = []
    for name in ("queries", "keys", "values"):
        dims = match.dims(name)
        if dims is None or len(dims) not in (3, 4):
            rank = "unknown rank" if dims is None else f"rank {len(dims)}"
            return f"{name} {match[name].name!r} have {rank}, and (batch, heads, length, size) is needed"
        ranks.append(len(dims))
    return (
        None if len(set(ranks)) == 1 else f"queries, keys and values have ranks {ranks[0]}, {ranks[1]} and {ranks[2]}"
    )


def batch_objection(match: Match) -> str | None:
    one, two, three = (dims[0] for dims in shapes_of(match))
    return None if one == two == three else f"the batches of queries, keys and values are {one}, {two} and {three}"


def heads_objection(match: Match, least: int) -> str | None:
    """Products of 4 dimensions broadcast one head of keys over all queries."""
    heads = [dims[1] if len(dims) == 4 else 1 for dims in shapes_of(match)]
    if not isinstance(heads[0], int) or heads[1] != heads[2] or heads[1] not in (heads[0], 1):
        return f"the heads of queries, keys and values are {heads[0]}, {heads[1]} and {heads[2]}"
    if heads[0] < least:
        return f"it has {heads[0]} heads, fewer than min_heads={least}"
    return None


def size_objection(match: Match) -> str | None:
    queries, keys, _ = shapes_of(match)
    return None if keys[-1] == queries[-1] else f"queries have size {queries[-1]} and keys {keys[-1]}"


def softmax_objection(match: Match) -> str | None:
    """The softmax must run over the keys, the last dimension."""
    axis = match.named["softmax"].attrs.get("axis", -1)
    last = len(shapes_of(match)[0]) - 1
    return None if axis in (-1, last) else f"its softmax runs over axis {axis}, not over the keys"


def scale_objection(match: Match) -> str | None:
    cap, scale = cap_of(match), scale_of(match)
    if cap is not None and not (math.isfinite(cap) and cap > 0):
        return f"its scores are capped at {cap}"
    if not (math.isfinite(scale) and scale > 0):
        return f"its scale is {scale}"
    return _by_head_objection(match)


def _by_head_objection(match: Match) -> str | None:
    if "by_head" not in match:
        return None
    queries, shape = shapes_of(match)[0], list(peek(match["by_head"]).shape)  # pyright: ignore[reportArgumentType]
    if len(queries) == 4 and shape in ([queries[1], 1, 1], [1, queries[1], 1, 1]):
        return None
    return f"its scores are multiplied by {match['by_head'].name!r} of shape {shape}, not by one factor for each head"
