"""LayerNorm, as exporters take it apart.

Ba, Kiros and Hinton, "Layer Normalization", 2016: (x - mean) / sqrt(variance + epsilon) * scale + bias.
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
_CENTERED = Op("Sub", _X, mean_of(_X, "mean"))
_NORMALIZED = over_root_of(_CENTERED, Op("Add", mean_of(square_of(_CENTERED), "variance"), Scalar(name="epsilon")))
_SCALED = Op("Mul", _NORMALIZED, Var("scale"))


class _LayerNorm(Rule):
    patterns = (Op("Add", _SCALED, Var("bias")),)
    opset = 17

    def check(self, match: Match) -> str | None:
        dims = match.dims("x")
        channels = dims[-1] if dims else None
        return (
            over_last_axis(match, "mean")
            or over_last_axis(match, "variance")
            or per_channel(match["scale"], channels, "scale")
            or per_channel(match["bias"], channels, "bias")
        )

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        attrs = {"axis": -1, "epsilon": match.scalar("epsilon"), "stash_type": 1}
        inputs = [match[name] for name in ("x", "scale", "bias")]
        return edits.node("LayerNormalization", inputs, at=match.root, takes_name=True, like=match.output, attrs=attrs)


@dataclass(frozen=True)
class FuseLayerNorm(RulePass):
    """Recognizes LayerNorm and writes it as one `LayerNormalization` (opset 17).

    1. (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale + bias, with the root as divisor or inverse
       factor, becomes one node.
    2. A mean over other axes than the last, or one that drops it, is left. (Refused.)
    3. A scale or bias that is not one number for each channel is left. (Refused.)
    4. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-layer-norm"

    def rules(self) -> tuple[Rule, ...]:
        return (_LayerNorm(),)
