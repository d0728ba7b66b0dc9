"""`prune-weights`: unstructured pruning by masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult
from enginery.passes.module.training import Training

if TYPE_CHECKING:
    import torch

    from enginery.passes.module.layers import Layers

GAIN = "zeros shrink the compressed file; a dense runtime computes them like any other weight, so latency is unchanged"
RAMP = 0.7
"""Gradual schedules reach the final ratio at this part of the training; the rest is recovery at full sparsity."""


@dataclass(frozen=True, kw_only=True)
class PruneWeights(Training):
    """Sets the least important weights of linear and convolution layers to zero, and keeps them there.

    1. By `ratio`: exactly that share of the weights goes, of each layer (`scope=layer`) or of all together
       (`scope=global`), the lowest scores first. `criterion`: `l1` |w|; `l2` w^2 (for single weights the same order
       as l1); `lamp`, layer-adaptive magnitude; `random`.
    2. By `threshold`: every weight with |w| below it goes. Exactly one of `ratio` and `threshold` is given.
    3. `prune=one-shot` prunes at once. `iterative` (equal steps) and `cubic` (1 - (1 - t)^3, Zhu and Gupta 2017)
       prune in `steps` while training; they need `epochs` or `minutes`, whose options are those of `recover`
       (`schedule` is the learning rate's). With `alpha` above 0 the original teaches meanwhile, as in `distil`: the
       loss is (1 - `alpha`) times the task's plus `alpha` times the divergence from its answers at `temperature`.
    4. Kept as it is, with a reason: a layer whose weight is shared with another one, or is already masked.
    """

    name: ClassVar[str] = "prune-weights"

    ratio: float | None = None
    threshold: float | None = None
    criterion: Literal["l1", "l2", "lamp", "random"] = "l1"
    scope: Literal["global", "layer"] = "global"
    prune: Literal["one-shot", "iterative", "cubic"] = "one-shot"
    steps: int = 10
    alpha: float = 0.0
    temperature: float = 1.0
    layers: str = ".*"

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.threshold is None):
            raise UsageError(f"{self.name}: give either ratio or threshold")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(f"{self.name}: ratio={self.ratio} is out of range; expected between 0 and 1")
        if self.threshold is not None and not self.threshold > 0:
            raise UsageError(f"{self.name}: threshold={self.threshold} is out of range; expected above 0")
        if self.prune != "one-shot":
            if self.ratio is None or self.steps < 1:
                raise UsageError(f"{self.name}: prune={self.prune} needs ratio and at least one step")
            self.check(self.name)
            if not 0 <= self.alpha <= 1 or not self.temperature > 0:
                raise UsageError(
                    f"{self.name}: alpha={self.alpha}, temperature={self.temperature}; expected alpha from 0 to 1 and "
                    "a temperature above 0"
                )
        elif self.bounded() or self.alpha:
            raise UsageError(f"{self.name}: prune=one-shot does not train; add recover or distil after it instead")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.layers import select
        from enginery.passes.module.prune import masks

        layers, refusals = select(module, self.layers)
        masks.attach(layers)
        details: dict[str, Any] = {"gain": GAIN}
        if self.threshold is not None:
            masks.write(layers, masks.by_threshold(layers, self.threshold))
        elif self.prune == "one-shot":
            self._prune(layers, 1.0, context.seed)
        else:
            details["training"] = self._gradually(module, layers, context)
        details["sparsity"] = masks.sparsity(layers)
        pruned = sum(int((layer.get_buffer("weight_mask") == 0).sum()) for _, layer in layers)
        return module, PassResult(changed=pruned, refusals=tuple(refusals), details=details)

    def _prune(self, layers: Layers, part: float, seed: int) -> None:
        """Prune to `part` of the final ratio."""
        from enginery.passes.module.prune import masks

        assert self.ratio is not None
        scored = masks.scores(layers, self.criterion, seed)
        masks.write(layers, masks.by_ratio(scored, self.ratio * part, pooled=self.scope == "global"))

    def _gradually(self, module: torch.nn.Module, layers: Layers, context: ModuleContext) -> dict[str, Any]:
        from enginery.passes.module.training.checkpoint import fingerprint
        from enginery.passes.module.training.loop import train
        from enginery.passes.module.training.losses import task_loss
        from enginery.passes.module.training.teaching import taught_loss

        done = 0

        def ramp(progress: float) -> None:
            nonlocal done
            due = min(int(progress / RAMP * self.steps) + 1, self.steps)
            if due > done:
                done = due
                self._prune(layers, self._part(due / self.steps), context.seed)

        loss, facts = task_loss(self, context.resolve), None
        if self.alpha:
            teacher = self._teacher(context)
            loss, facts = taught_loss(self.alpha, self.temperature, "kl", loss, teacher), fingerprint(teacher)
        report = train(module, self, context, loss, name=self.name, on_progress=ramp, settled=RAMP, facts=facts)
        # A training that ended early, by patience or by minutes, must still deliver the ratio that was asked for.
        self._prune(layers, 1.0, context.seed)
        return report

    def _teacher(self, context: ModuleContext) -> torch.nn.Module:
        if context.original is None:
            raise PassError(f"{self.name}: alpha={self.alpha} learns from the original, and this run was given none")
        return context.original().eval().requires_grad_(requires_grad=False)

    def _part(self, t: float) -> float:
        return t if self.prune == "iterative" else 1 - (1 - t) ** 3
