"""`prune-channels`: structured pruning; the exported graph is physically smaller."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

SEARCH_STEPS = 12


@dataclass(frozen=True)
class PruneChannels:
    """Removes whole channels of convolutions and neurons of linear layers, with all that is coupled to them.

    1. Coupled layers (residual additions, concatenations, depthwise convolutions, normalization, flattening) shrink
       together, by torch-pruning's dependency graph.
    2. `ratio` is the share of channels to remove, of each group (`scope=layer`) or of all groups together
       (`scope=global`, which ranks scores that are normalized to mean 1 in each group). `macs` instead is the share
       of multiply-accumulates to keep: the smallest ratio that reaches it is searched. Exactly one is given.
    3. A layer keeps at least `1 - limit` of its channels, and a multiple of `round_to` where it had one: runtimes
       compute in blocks of 8 or 16 channels, and an odd number is no faster than the next multiple.
    4. `criterion`: `l2`, `l1`, `bn-scale`, `taylor` (needs labelled training data), or `random` (seeded).
    5. Kept whole, with a reason: channels that are an output of the model, that meet a grouped convolution or a bare
       parameter, that attention splits into heads, that pass a concatenation torch-pruning cannot follow, or that the
       criterion cannot score.
    6. The cut module must answer as the whole one does with the removed channels' readers set to zero; the largest
       error, relative to the outputs' scale, is reported under `proved` (null where a normalization over channels
       makes the two differ by right). Anything above 1e-3 is an error.
    7. A module with masks or codebooks is an error: prune the structure first.
    """

    name: ClassVar[str] = "prune-channels"

    ratio: float | None = None
    macs: float | None = None
    criterion: Literal["l1", "l2", "bn-scale", "taylor", "random"] = "l2"
    scope: Literal["global", "layer"] = "global"
    round_to: int = 8
    limit: float = 0.9
    loss: str = "auto"
    layers: str = ".*"

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.macs is None):
            raise UsageError(f"{self.name}: give either ratio or macs")
        for option, value in (("ratio", self.ratio), ("macs", self.macs), ("limit", self.limit)):
            if value is not None and not 0 < value < 1:
                raise UsageError(f"{self.name}: {option}={value} is out of range; expected between 0 and 1")
        if self.round_to < 1:
            raise UsageError(f"{self.name}: round_to={self.round_to} is out of range; expected 1 or more")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.prune.dependency import cut, trace
        from enginery.passes.module.prune.importance import importance
        from enginery.passes.module.prune.proof import prove, silenced, unsound
        from enginery.passes.module.training.losses import task_loss
        from enginery.passes.module.training.options import Training

        dependencies = trace(module, context.example, self.layers)
        loss = task_loss(Training(loss=self.loss), context.resolve)
        scores = importance(module, dependencies, self.criterion, context, loss)
        refusals = [*dependencies.refusals, *unsound(module, dependencies, context.example)]
        scores = {root: score for root, score in scores.items() if root not in {r.node for r in refusals}}
        refusals += [
            Refusal(group.root, f"criterion={self.criterion} has no score for its channels")
            for group in dependencies.groups
            if group.root not in scores and group.root not in {r.node for r in refusals}
        ]
        ratio = self.ratio if self.ratio is not None else self._search(module, context, scores)
        drop = self._choose(scores, ratio)
        widths = {root: [len(scores[root]), len(scores[root]) - len(gone)] for root, gone in drop.items() if gone}
        expected = silenced(dependencies, module, drop, context.example)
        cut(dependencies, module, drop)
        details: dict[str, Any] = {"ratio": round(ratio, 6), "channels": widths}
        details["proved"] = prove(module, expected, context.example)
        return module, PassResult(
            changed=sum(len(gone) for gone in drop.values()), refusals=tuple(refusals), details=details
        )

    def _choose(self, scores: dict[str, torch.Tensor], ratio: float) -> dict[str, list[int]]:
        """The channels to remove from each group, lowest scores first."""
        import torch

        if self.scope == "global" and scores:
            everything = torch.cat(list(scores.values()))
            wanted = round(ratio * len(everything))
            bound = everything.sort().values[wanted - 1] if wanted else everything.min() - 1
            counts = {root: int((score <= bound).sum()) for root, score in scores.items()}
        else:
            counts = {root: round(ratio * len(score)) for root, score in scores.items()}
        return {
            root: sorted(score.argsort(stable=True)[: self._allowed(len(score), counts[root])].tolist())
            for root, score in scores.items()
        }

    def _allowed(self, size: int, wanted: int) -> int:
        """How many of `size` channels go when `wanted` should: bounded by `limit` and rounded to `round_to`."""
        least = max(1, size - int(self.limit * size + 1e-9))
        kept = max(size - wanted, least)
        if size >= self.round_to:
            kept = min(size, max(self.round_to, -(-kept // self.round_to) * self.round_to))
        return size - kept

    def _search(self, module: torch.nn.Module, context: ModuleContext, scores: dict[str, torch.Tensor]) -> float:
        """The smallest ratio, to 1 in 4096, at which at most `macs` of the multiply-accumulates remain."""
        from enginery.passes.module.figures import count_macs
        from enginery.passes.module.prune.dependency import cut, trace

        assert self.macs is not None
        target = self.macs * count_macs(module, context.example)

        def reaches(ratio: float) -> bool:
            trial = copy.deepcopy(module)
            cut(trace(trial, context.example, self.layers), trial, self._choose(scores, ratio))
            return count_macs(trial, context.example) <= target

        low, high = 0.0, 1.0
        if not reaches(high):
            raise PassError(
                f"macs={self.macs} cannot be reached: with limit={self.limit} and round_to={self.round_to}, more "
                "multiply-accumulates remain; raise limit, lower round_to, or name more layers"
            )
        for _ in range(SEARCH_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return high
