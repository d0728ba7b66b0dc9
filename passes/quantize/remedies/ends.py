"""The first and the last layers in float."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from enginery.errors import UsageError
from enginery.passes.base import PassResult, Refusal
from enginery.passes.quantize.context import QuantizeContext
from enginery.passes.quantize.plan import make_plan, names_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class FloatEnds:
    """Keeps the layers at both ends of the network in float.

    The first layers see the input itself and the last ones make the answer: no layer behind them averages their noise
    out ("Quantizing deep convolutional networks", Krishnamoorthi 2018).

    1. The `first` and `last` of the layers that the policy quantizes stay float, in the order of the graph.
    2. Where no layer would be left between them, nothing is changed.
    """

    name: ClassVar[str] = "float-ends"
    when: ClassVar[Literal["before", "after"]] = "before"
    worth: ClassVar[float] = 3.0

    first: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0:
            raise UsageError(f"float-ends: first is {self.first}, last is {self.last}; expected numbers from 0 on.")

    def apply(self, graph: gs.Graph, context: QuantizeContext) -> PassResult:
        """Edit the options in `context`; the graph stays as it is."""
        nodes = [node for node, _ in make_plan(graph, context.policy, context.options, context.tensors).compute]
        if len(nodes) <= self.first + self.last:
            return PassResult(refusals=(Refusal("graph", f"{len(nodes)} layers are quantized: none would be left"),))
        ends = nodes[: self.first] + nodes[len(nodes) - self.last :]
        names = [names_of(node)[0] for node in ends]
        context.options = context.options.keeping_float(*map(re.escape, names))
        return PassResult(len(names), details={"float": names})
