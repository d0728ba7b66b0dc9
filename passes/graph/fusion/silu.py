"""SiLU, as exporters and eager code take it apart.

Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units", 2018 (also called swish): x * sigmoid(x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.graph.matcher import Match, OneOf, Op, Rule, RulePass, Scalar, Var

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_X = Var("x")
_DENOMINATOR = Op("Add", Op("Exp", Op("Neg", _X)), Scalar(1))
_INVERSE = OneOf(Op("Div", Scalar(1), _DENOMINATOR), Op("Reciprocal", _DENOMINATOR))


class _Silu(Rule):
    patterns = (Op("Div", _X, _DENOMINATOR), Op("Mul", _X, _INVERSE), Op("Swish", _X, name="swish"))

    def check(self, match: Match) -> str | None:
        alpha = match.named["swish"].attrs.get("alpha", 1.0) if "swish" in match.named else 1.0
        return None if alpha == 1 else f"its alpha is {alpha:g}, not 1"

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        gate = edits.node("Sigmoid", [match["x"]], at=match.root, like=match.output)
        return edits.node("Mul", [match["x"], gate], at=match.root, takes_name=True, like=match.output)


@dataclass(frozen=True)
class FuseSilu(RulePass):
    """Recognizes SiLU and writes it as x * Sigmoid(x), the form that every runtime's own fuser knows.

    1. x / (1 + exp(-x)), the quotient as a factor or not, becomes x * Sigmoid(x).
    2. `Swish` (opset 24) does too: ONNX Runtime has no kernel for it, and expands it with casts; TensorRT's fusers
       look for the product. With an alpha other than 1 it is left. (Refused.)
    3. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-silu"

    def rules(self) -> tuple[Rule, ...]:
        return (_Silu(),)
