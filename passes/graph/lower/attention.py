"""What the lowerings of attention share: which nodes they look at, and what every one of them must refuse."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import Refusal
from enginery.passes.graph.base import ScopedPass
from enginery.passes.graph.edit import label
from enginery.passes.graph.lower.heads import heads_objection

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from enginery.passes.graph.edit import Edits


@dataclass(frozen=True)
class LowerAttention(ScopedPass):
    """Rewrites every `Attention` over (batch, heads, length, size) whose heads and sizes are fixed."""

    verb: ClassVar[str] = "lowered"
    """What a refusal says was not done."""

    @abstractmethod
    def objection(self, node: gs.Node) -> str | None:
        """Why this form cannot express the node, beyond what no form can; None when it can."""

    @abstractmethod
    def rewrite(self, node: gs.Node, edits: Edits) -> gs.Tensor:
        """Add the new form and return what replaces the node's output."""

    def edit(self, edits: Edits) -> Iterable[Refusal]:
        for node in edits.graph.nodes:
            if node.op != "Attention" or node.domain or "q_num_heads" in node.attrs:
                continue
            reason = heads_objection(node) or self.objection(node)
            if reason is not None:
                yield Refusal(label(node), f"not {self.verb}: {reason}")
            else:
                edits.replace(node.outputs[0], self.rewrite(node, edits))
