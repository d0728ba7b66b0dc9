"""GroupNorm, as exporters take it apart.

Wu and He, "Group Normalization", 2018. torch's exporter writes it with an InstanceNormalization over one row for each
group: (batch, groups, everything else).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.matcher import Known, Match, Op, Rule, RulePass, Var
from enginery.passes.graph.weights import peek

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_ROWS = Op("Reshape", Var("x"), Var("rows"), name="grouped")
_NORMALIZED = Op("InstanceNormalization", _ROWS, Known("unit"), Known("zero"), name="norm")
_WHOLE = Op("Reshape", _NORMALIZED, Var("shape"), name="restored")


class _GroupNorm(Rule):
    patterns = (Op("Add", Op("Mul", _WHOLE, Known("scale")), Known("bias")),)
    opset = 21

    def check(self, match: Match) -> str | None:
        dims, rows = match.dims("x"), match.shapes.dims(match.named["grouped"].outputs[0])
        if dims is None or len(dims) < 3 or not isinstance(dims[1], int):
            return f"{match['x'].name!r} has shape {dims}; (batch, channels, ...) with fixed channels is needed"
        if rows is None or len(rows) != 3 or not isinstance(rows[1], int) or dims[1] % rows[1]:
            return f"{match.named['grouped'].outputs[0].name!r} has shape {rows}, which is no (batch, groups, rest)"
        if match.shapes.dims(match.named["restored"].outputs[0]) != dims:
            return f"{match.named['restored'].outputs[0].name!r} does not have the shape of {match['x'].name!r}"
        if np.any(match.values("unit") != 1) or np.any(match.values("zero") != 0):
            return "the rows of groups have a scale or bias of their own"
        return _per_channel(match, "scale", dims) or _per_channel(match, "bias", dims)

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        rows = match.shapes.dims(match.named["grouped"].outputs[0])
        assert rows is not None
        epsilon = match.named["norm"].attrs.get("epsilon", 1e-5)
        attrs = {"num_groups": rows[1], "epsilon": epsilon}
        weights = [edits.constant(match[name].name, match.values(name).reshape(-1)) for name in ("scale", "bias")]
        inputs = [match["x"], *weights]
        return edits.node("GroupNormalization", inputs, at=match.root, takes_name=True, like=match.output, attrs=attrs)


def _per_channel(match: Match, name: str, dims: tuple[int | str, ...]) -> str | None:
    shape = list(peek(match[name]).shape)  # pyright: ignore[reportArgumentType]
    wanted = [dims[1], *[1] * (len(dims) - 2)]
    padded = [1] * (len(wanted) - len(shape)) + shape
    if padded == wanted or shape == [1, *wanted]:
        return None
    return f"the {name} {match[name].name!r} has shape {shape}, and {wanted} is needed"


@dataclass(frozen=True)
class FuseGroupNorm(RulePass):
    """Recognizes GroupNorm and writes it as one `GroupNormalization` (opset 21).

    1. Reshape to (batch, groups, rest), InstanceNormalization with scale 1 and bias 0, Reshape back, and a scale and a
       bias for each channel become one node.
    2. A scale or bias that is not one number for each channel, and rows with a scale of their own, are left. (Refused.)
    3. Channels that are not fixed or no multiple of the groups, and another shape after than before, are left.
       (Refused.)
    4. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-group-norm"

    def rules(self) -> tuple[Rule, ...]:
        return (_GroupNorm(),)
