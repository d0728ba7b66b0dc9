"""A residual sum and the normalization of it, as ONNX Runtime's one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginery.passes.graph.matcher import Match, Op, Rule, RulePass, Var
from enginery.passes.graph.weights import numpy_dtype

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_SUM = Op("Add", Var("x"), Var("residual"), name="sum", shared=True)


class _ResidualNorm(Rule):
    patterns = (
        Op("LayerNormalization", _SUM, Var("scale"), Var("bias"), name="norm"),
        Op("LayerNormalization", _SUM, Var("scale"), name="norm"),
        Op("RMSNormalization", _SUM, Var("scale"), name="norm"),
    )

    def __init__(self, *, write: bool) -> None:
        self._write = write

    def check(self, match: Match) -> str | None:
        norm = match.named["norm"]
        shapes = [match.dims(name) for name in ("x", "residual")]
        if shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) not in (2, 3):
            return f"its terms have the shapes {shapes[0]} and {shapes[1]}"
        if norm.attrs.get("axis", -1) not in (-1, len(shapes[0]) - 1):
            return "it normalizes over more than the last dimension"
        if objection := weights_objection(match, shapes[0][-1]):
            return objection
        if any(not each.is_empty() for each in norm.outputs[1:]):
            return "its mean or deviation is read"
        if numpy_dtype(match["scale"]) != numpy_dtype(match["x"]):
            return f"its scale is {match['scale'].dtype}"
        if not self._write:
            return "residual sum and norm recognized; one kernel for both is slower than two on this target"
        return None

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        norm, total = match.named["norm"], match.named["sum"].outputs[0]
        op = "SkipLayerNormalization" if norm.op == "LayerNormalization" else "SkipSimplifiedLayerNormalization"
        inputs = [match[name] for name in ("x", "residual", "scale", "bias") if name in match]
        made = edits.variable(f"{match.output.name}_fused", match.output)
        outputs: list[Any] = [made]
        if len(total.outputs) > 1 or edits.is_output(total):  # the sum goes on as the next residual
            outputs += [edits.empty(), edits.empty(), edits.variable(f"{total.name}_fused", total)]
        attrs = {"epsilon": norm.attrs.get("epsilon", 1e-5)}
        edits.node(op, inputs, at=norm, takes_name=True, attrs=attrs, domain="com.microsoft", outputs=outputs)
        if len(outputs) > 1:
            edits.replace(total, outputs[3])
        return made


def weights_objection(match: Match, width: int | str) -> str | None:
    """Why the kernels cannot read the scale or bias of the norm, which ONNX broadcasts; None when they can."""
    for name in ("scale", "bias"):
        if name in match and match.dims(name) != (width,):
            return f"the {name} of its norm has the shape {match.dims(name)}; ({width},) is needed"
    return None


@dataclass(frozen=True)
class LowerToResidualNorm(RulePass):
    """Writes a sum and its normalization as `com.microsoft.SkipLayerNormalization`.

    1. LayerNormalization(x + residual) becomes one SkipLayerNormalization; RMSNormalization becomes a
       SkipSimplifiedLayerNormalization. A sum that others read too is the node's fourth output.
    2. Terms that broadcast, other ranks than 2 and 3, a norm over more than the last dimension, a scale of another
       type, and a norm whose other outputs are read are left. (Refused.)
    3. With `write=false` nothing changes, and every place is named: on CPUs ONNX Runtime's kernel takes several times
       as long as Add and LayerNormalization. (Refused.)
    """

    name: ClassVar[str] = "lower-to-residual-norm"
    in_functions: ClassVar[bool] = False

    write: bool = True

    def rules(self) -> tuple[Rule, ...]:
        return (_ResidualNorm(write=self.write),)
