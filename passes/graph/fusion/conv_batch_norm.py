"""BatchNorm folded into the convolution before it.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
section 3.2: in inference a batch norm is one factor and one offset for each channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from enginery.passes.graph.matcher import Match, Op, Rule, RulePass, Var
from enginery.passes.graph.weights import is_known

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_NORM = (Var("scale"), Var("bias"), Var("mean"), Var("variance"))
_CONV = "Conv|ConvTranspose"


class _ConvBatchNorm(Rule):
    patterns = (
        Op("BatchNormalization", Op(_CONV, Var("x"), Var("weight"), name="conv"), *_NORM),
        Op("BatchNormalization", Op(_CONV, Var("x"), Var("weight"), Var("offset"), name="conv"), *_NORM),
    )

    def check(self, match: Match) -> str | None:
        if match.root.attrs.get("training_mode", 0) or len(match.root.outputs) > 1:
            return "the batch norm is in training mode"
        names = ("weight", "offset", "scale", "bias", "mean", "variance")
        unknown = next((match[name].name for name in names if name in match and not is_known(match[name])), None)
        if unknown is not None:
            return f"{unknown!r} is no constant"
        conv = match.named["conv"]
        if conv.op == "ConvTranspose" and conv.attrs.get("group", 1) != 1:
            return f"{conv.name!r} is a transposed convolution in {conv.attrs['group']} groups"
        return None

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        conv = match.named["conv"]
        epsilon = match.root.attrs.get("epsilon", 1e-5)
        # In float64: a variance near zero makes factors that float32 would round twice.
        names = ("scale", "bias", "mean", "variance")
        scale, bias, mean, variance = (match.values(name).astype(np.float64) for name in names)
        factor = scale / np.sqrt(variance + epsilon)
        weight = match.values("weight")
        channel = 0 if conv.op == "Conv" else 1  # a transposed convolution has its output channels second
        shape = [-1 if axis == channel else 1 for axis in range(weight.ndim)]
        offset = match.values("offset").astype(np.float64) if "offset" in match else 0.0
        made = [
            _like(weight * factor.reshape(shape), match["weight"], edits),
            _like((offset - mean) * factor + bias, match["bias"], edits, weight.dtype),
        ]
        inputs = [match["x"], *made]
        return edits.node(conv.op, inputs, at=match.root, like=match.output, attrs=conv.attrs, name=conv.name)


def _like(values: Any, old: gs.Tensor, edits: Edits, dtype: Any = None) -> gs.Constant:
    """A weight of its own: others may share the old one. It keeps the old name where nothing else needs that."""
    return edits.constant(old.name, values.astype(dtype or old.dtype))


@dataclass(frozen=True)
class FuseConvBatchNorm(RulePass):
    """Folds a BatchNormalization into the Conv or ConvTranspose before it.

    1. Weights are multiplied with scale / sqrt(variance + epsilon) along their output channels (the first dimension of
       a Conv, also a grouped one, the second of a ConvTranspose); the bias is made or adjusted.
    2. The folded weights are new: an initializer that other nodes share stays as it is.
    3. A batch norm in training mode, parameters that the caller may set or that are computed, and grouped transposed
       convolutions are left. (Refused.)
    4. A convolution whose result something else reads keeps its batch norm. (Refused.)
    """

    name: ClassVar[str] = "fuse-conv-batch-norm"

    def rules(self) -> tuple[Rule, ...]:
        return (_ConvBatchNorm(),)
