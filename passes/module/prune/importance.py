"""How much each channel of a group matters.

Only loaded by passes that are being applied: it imports torch and torch-pruning (extra `prune`).
"""

from __future__ import annotations

from typing import Literal

import torch

from enginery.errors import PassError
from enginery.passes.base import ModuleContext
from enginery.passes.module.prune.dependency import Dependencies, Group, library
from enginery.passes.module.prune.gradients import gradients
from enginery.passes.module.training.losses import Loss

Criterion = Literal["l1", "l2", "bn-scale", "taylor", "random"]


def importance(
    module: torch.nn.Module, dependencies: Dependencies, criterion: Criterion, context: ModuleContext, loss: Loss
) -> dict[str, torch.Tensor]:
    """A score for each channel of each group, by root name; each group's scores have mean 1.

    `l1`, `l2`: norms of the filters and of the weights that read them, averaged over the group (Fang et al. 2023,
    "DepGraph"). `bn-scale`: the BatchNorm factors (Liu et al. 2017). `taylor`: |weight x gradient| (Molchanov et al.
    2019) over at most `gradients.BATCHES` training batches. `random`: seeded.

    Raises:
        PassError: `taylor` without training data, or `bn-scale` without any BatchNorm.
    """
    if criterion == "taylor":
        gradients(module, context, loss)
    tp = library()
    scorer = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn-scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "random": lambda: None,
    }[criterion]()
    generator = torch.Generator().manual_seed(context.seed)
    found: dict[str, torch.Tensor] = {}
    for group in dependencies.groups:
        if scorer is None:
            found[group.root] = torch.rand(group.size, generator=generator)
        elif (score := scorer(group.raw)) is not None:
            found[group.root] = _checked(group, score.detach().cpu().double())
    module.zero_grad(set_to_none=True)
    if criterion == "bn-scale" and not found:
        raise PassError("criterion=bn-scale: no group has a BatchNorm; use l2 or taylor")
    return found


def _checked(group: Group, score: torch.Tensor) -> torch.Tensor:
    if len(score) != group.size or not bool(score.isfinite().all()):
        raise PassError(f"{group.root}: its channels could not be scored ({len(score)} scores for {group.size})")
    return score
