"""GELU, as exporters take it apart.

Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016: x * Phi(x), and its tanh approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.graph.matcher import Match, OneOf, Op, Pattern, Rule, RulePass, Scalar, Var

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_X = Var("x")
_SQUARE = OneOf(Op("Pow", _X, Scalar(2)), Op("Mul", _X, _X))
_CUBE = OneOf(Op("Pow", _X, Scalar(3)), Op("Mul", _X, Op("Mul", _X, _X)))

_ERF = Op("Erf", OneOf(Op("Div", _X, Scalar(math.sqrt(2))), Op("Mul", _X, Scalar(math.sqrt(0.5)))))
_TANH = Op(
    "Tanh",
    OneOf(
        Op("Mul", Op("Add", _X, Op("Mul", _CUBE, Scalar(0.044715))), Scalar(math.sqrt(2 / math.pi))),
        Op(
            "Mul",
            Op("Mul", _X, Scalar(math.sqrt(2 / math.pi))),
            Op(
                "Add",
                OneOf(Op("Mul", _SQUARE, Scalar(0.044715)), Op("Mul", Op("Mul", _X, Scalar(0.044715)), _X)),
                Scalar(1),
            ),
        ),
    ),
)


def _half_of(x: Pattern, inner: Pattern) -> tuple[Op, ...]:
    """X * (1 + inner) / 2, however the three factors are grouped."""
    a, b, half = x, Op("Add", inner, Scalar(1)), Scalar(0.5)
    halves = [Op("Mul", b, half), Op("Div", b, Scalar(2))]
    return (
        Op("Mul", Op("Mul", a, b), half),
        Op("Mul", OneOf(Op("Mul", a, half), Op("Div", a, Scalar(2))), b),
        Op("Mul", a, OneOf(*halves)),
        Op("Div", Op("Mul", a, b), Scalar(2)),
    )


class _Gelu(Rule):
    opset = 20

    def __init__(self, inner: Pattern, attrs: dict[str, str]) -> None:
        self.patterns = _half_of(_X, inner)
        self._attrs = attrs

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        return edits.node("Gelu", [match["x"]], at=match.root, takes_name=True, like=match.output, attrs=self._attrs)


_RULES = (_Gelu(_ERF, {}), _Gelu(_TANH, {"approximate": "tanh"}))


@dataclass(frozen=True)
class FuseGelu(RulePass):
    """Recognizes GELU and writes it as one `Gelu` (opset 20).

    1. x * (1 + erf(x / sqrt 2)) / 2, its three factors grouped in any way, becomes `Gelu`.
    2. x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2 becomes `Gelu` with approximate="tanh".
    3. A value inside that something else reads keeps the whole. (Refused.)
    4. A model that cannot be raised to opset 20 is left. (Refused.)
    """

    name: ClassVar[str] = "fuse-gelu"

    def rules(self) -> tuple[Rule, ...]:
        return _RULES
