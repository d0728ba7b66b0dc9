"""`prune-heads`: removal of whole attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal
from enginery.passes.module.prune.attention_names import NAMES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PruneHeads:
    """Removes the least important heads of self-attention: rows of query, key and value, columns of the output.

    1. Attention is recognized by three linear children with the names of the Hugging Face families (`query`/`key`/
       `value`, `q_proj`/..., `q_lin`/..., `to_q`/...) and the output projection in the same module or in its parent.
    2. `ratio` of the heads of each attention goes, at least one stays. Importance is the norm of a head's value rows
       times that of its output columns (`l2`, `l1`), their first-order effect on the loss (`taylor`, needs labelled
       training data), or `random` (seeded).
    3. Attributes that count heads or their total width are updated; the width of a head stays.
    4. Kept as it is, with a reason: no attribute that counts the heads (the code then fixes their number), fewer
       key/value heads than query heads, no output projection of fitting width, a weight that is masked or holds a
       codebook, `torch.nn.MultiheadAttention`.
    5. A module in which no attention is recognized is an error.
    """

    name: ClassVar[str] = "prune-heads"

    ratio: float = 0.5
    criterion: Literal["l1", "l2", "taylor", "random"] = "l2"
    loss: str = "auto"
    layers: str = ".*"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise UsageError(f"{self.name}: ratio={self.ratio} is out of range; expected between 0 and 1")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.prune.attention import find, remove
        from enginery.passes.module.prune.gradients import gradients
        from enginery.passes.module.training.losses import task_loss
        from enginery.passes.module.training.options import Training

        found, refusals = find(module, self.layers)
        if not found and not refusals:
            raise PassError(
                f"no attention was recognized under layers={self.layers!r}; expected a module with linear children "
                f"such as {'/'.join(NAMES[0])} or {'/'.join(NAMES[1])}"
            )
        if found and self.criterion == "taylor":
            gradients(module, context, task_loss(Training(loss=self.loss), context.resolve))
        heads: dict[str, list[int]] = {}
        changed = 0
        for attention in found:
            gone = min(round(self.ratio * attention.heads), attention.heads - 1)
            if gone < 1:
                refusals.append(Refusal(attention.name, f"ratio={self.ratio} of {attention.heads} heads is none"))
                continue
            scores = attention.scores(self.criterion, context.seed)
            kept = sorted(scores.argsort(descending=True, stable=True)[: attention.heads - gone].tolist())
            heads[attention.name] = [attention.heads, len(kept)]
            remove(attention, kept)
            changed += gone
        module.zero_grad(set_to_none=True)
        details: dict[str, Any] = {"heads": heads}
        return module, PassResult(changed=changed, refusals=tuple(refusals), details=details)
