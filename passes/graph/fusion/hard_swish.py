"""HardSwish, as exporters take it apart.

Howard et al., "Searching for MobileNetV3", 2019: x * relu6(x + 3) / 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.graph.matcher import Match, OneOf, Op, Rule, RulePass, Scalar, Var

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_X = Var("x")
_CLIPPED = Op("Clip", Op("Add", _X, Scalar(3)), Scalar(0), Scalar(6))
_SIXTH = OneOf(Op("Div", _CLIPPED, Scalar(6)), Op("Mul", _CLIPPED, Scalar(1 / 6)))
_PRODUCT = Op("Mul", _X, _CLIPPED)


class _HardSwish(Rule):
    patterns = (
        Op("Mul", _X, _SIXTH),
        Op("Div", _PRODUCT, Scalar(6)),
        Op("Mul", _PRODUCT, Scalar(1 / 6)),
        Op("Mul", _X, Op("HardSigmoid", _X, name="gate")),
    )
    opset = 14

    def check(self, match: Match) -> str | None:
        gate = match.named.get("gate")
        if gate is None:
            return None
        alpha, beta = gate.attrs.get("alpha", 0.2), gate.attrs.get("beta", 0.5)
        if abs(alpha - 1 / 6) < 1e-5 and beta == 0.5:
            return None
        return f"its gate has alpha {alpha:g} and beta {beta:g}, not 1/6 and 1/2"

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        return edits.node("HardSwish", [match["x"]], at=match.root, takes_name=True, like=match.output)


@dataclass(frozen=True)
class FuseHardSwish(RulePass):
    """Recognizes HardSwish and writes it as one `HardSwish` (opset 14).

    1. x * clip(x + 3, 0, 6) / 6, the sixth as divisor or factor, in any place, becomes `HardSwish`.
    2. x * HardSigmoid(x) with alpha 1/6 and beta 1/2 becomes `HardSwish`; with others it is left. (Refused.)
    3. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-hard-swish"

    def rules(self) -> tuple[Rule, ...]:
        return (_HardSwish(),)
