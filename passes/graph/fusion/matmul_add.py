"""A linear layer as MatMul and Add over all leading dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from enginery.passes.graph.matcher import Known, Match, OneOf, Op, Rule, RulePass, Var
from enginery.passes.graph.shapes import dims_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits

_ROWS = Op("Reshape", Var("x"), Var("rows"), name="flat")
_GEMM = OneOf(
    Op("Gemm", _ROWS, Var("weight"), Known("bias"), name="gemm"), Op("Gemm", _ROWS, Var("weight"), name="gemm")
)


class _Linear(Rule):
    patterns = (Op("Reshape", _GEMM, Var("shape")),)

    def check(self, match: Match) -> str | None:
        gemm = match.named["gemm"]
        flags = {key: gemm.attrs.get(key, default) for key, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))}
        if flags != {"alpha": 1.0, "beta": 1.0, "transA": 0}:
            return f"{gemm.name!r} has {', '.join(f'{key}={value:g}' for key, value in flags.items())}"
        if gemm.attrs.get("transB", 0):
            return f"{gemm.name!r} reads its weight transposed"
        source, flat = match.dims("x"), match.shapes.dims(match.named["flat"].outputs[0])
        if source is None or flat is None or len(source) < 2 or source[-1] != flat[-1]:
            return f"{match['x'].name!r} of shape {source} is cut into other rows: {flat}"
        after, weight = match.shapes.dims(match.output), dims_of(match["weight"])
        if weight is None or after is None or after != (*source[:-1], weight[1]):
            return f"{match.output.name!r} has shape {after}, not the leading dimensions of {match['x'].name!r}"
        bias = match.values("bias").shape if "bias" in match else (1,)
        return None if bias[:-1] in ((), (1,)) else f"its bias has shape {list(bias)}"

    def rewrite(self, match: Match, edits: Edits) -> gs.Tensor:
        gemm = match.named["gemm"]
        inputs = [match["x"], match["weight"]]
        if "bias" not in match:
            return edits.node("MatMul", inputs, at=match.root, like=match.output, name=gemm.name)
        product = edits.node("MatMul", inputs, at=match.root, like=match.output, name=gemm.name)
        bias = match["bias"] if len(match["bias"].shape) == 1 else _row(match, edits)
        return edits.node("Add", [product, bias], at=match.root, like=match.output, name=f"{gemm.name}/bias")


def _row(match: Match, edits: Edits) -> gs.Constant:
    return edits.constant(match["bias"].name, np.asarray(match.values("bias")).reshape(-1))


@dataclass(frozen=True)
class FuseMatMulAdd(RulePass):
    """Writes a linear layer that is computed on rows as MatMul and Add on the tensor itself.

    1. Reshape to (rows, channels), Gemm with its bias, and Reshape to the leading dimensions again become MatMul and
       Add: the form in which exporters write the other linear layers, and which runtimes fuse into one kernel.
    2. A Gemm with factors, or that transposes, is left. (Refused.)
    3. Rows that are cut from other dimensions than the last, or another shape after than before, are left. (Refused.)
    4. A bias that differs by row is left. (Refused.)
    5. A value inside that something else reads keeps the whole. (Refused.)
    """

    name: ClassVar[str] = "fuse-matmul-add"

    def rules(self) -> tuple[Rule, ...]:
        return (_Linear(),)
