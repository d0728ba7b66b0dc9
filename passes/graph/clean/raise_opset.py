"""A model written in a newer opset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import PassResult, Refusal
from enginery.passes.graph.opset import raise_opset

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class RaiseOpset:
    """Raises the opset of the standard operators to `version`.

    1. Operators that gained types or attributes stay as they are; axes, bounds, pads, parts of a split and modes of a
       sampling move to where the new opset reads them, and Upsample becomes Resize.
    2. A model with an operator that changed its meaning in another way, that ended, or that is unknown in the new
       opset, and a model older than opset 7, is left, and the node is named. (Refused.)
    3. A model that has this opset or a newer one stays as it is.

    The targets' lists raise to 13; passes that write a newer operator raise the model further by themselves.
    """

    name: ClassVar[str] = "raise-opset"
    tolerance: ClassVar[float] = 0.0

    version: int = 20

    def apply(self, graph: gs.Graph) -> PassResult:
        before = graph.opset
        reason = raise_opset(graph, self.version)
        refusals = (Refusal(graph.name or "graph", f"opset {before} kept: {reason}"),) if reason else ()
        return PassResult(int(graph.opset != before), refusals)
