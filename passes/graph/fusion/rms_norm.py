"""RMSNorm, as exporters take it apart.

Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019: x / sqrt(mean(x^2) + epsilon) * scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.graph.fusion.norms import mean_of, over_last_axis, over_root_of, per_channel, square_of
from enginery.passes.graph.matcher import Match, Op, Rule, RulePass, Scalar, Var

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_X = Var("x")
_NORMALIZED = over_root_of(_X, Op("Add", mean_of(square_of(_X), "mean"), Scalar(name="epsilon")))


class _RMSNorm(Rule):
    patterns = (Op("Mul", _NORMALIZED, Var("scale")),)
    opset = 23

    def check(self, match: Match) -> str | None:
        dims = match.dims("x")
        return over_last_axis(match, "mean") or per_channel(match["scale"], dims[-1] if dims else None, "scale")

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        attrs = {"axis": -1, "epsilon": match.scalar("epsilon"), "stash_type": 1}
        inputs = [match["x"], match["scale"]]
        return edits.node("RMSNormalization", inputs, at=match.root, takes_name=True, like=match.output, attrs=attrs)


@dataclass(frozen=True)
class FuseRMSNorm(RulePass):
    """Recognizes RMSNorm and writes it as one `RMSNormalization` (opset 23).

    1. x / sqrt(mean(x^2) + epsilon) * scale, with the root as divisor or inverse factor, becomes one node.
    2. A mean over other axes than the last, or one that drops it, is left. (Refused.)
    3. A scale that is not one number for each channel is left. (Refused.)
    4. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-rms-norm"

    def rules(self) -> tuple[Rule, ...]:
        return (_RMSNorm(),)
