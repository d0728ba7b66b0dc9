"""The distillation loss.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name

from enginery.passes.module.distil.features import Features, channel_axis
from enginery.passes.module.distil.maps import Maps
from enginery.passes.module.outputs import Tensors
from enginery.passes.module.training.losses import Loss
from enginery.passes.module.training.teaching import taught_loss


@dataclass(frozen=True)
class Terms:
    """The weights and kinds of the loss's terms, as the docstring of `Distil` explains them."""

    alpha: float
    temperature: float
    soft: str
    hidden_weight: float
    match: str
    attention_weight: float


def distillation_loss(
    terms: Terms,
    task: Loss,
    teacher: torch.nn.Module,
    features: Features,
    projections: torch.nn.ModuleList,
    maps: Maps,
) -> Loss:
    """The loss over (inputs, the student's outputs, labels)."""
    answers = taught_loss(terms.alpha, terms.temperature, terms.soft, task, teacher)

    def loss(inputs: Tensors, outputs: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
        total = answers(inputs, outputs, labels)
        for index in range(len(features.pairs)):
            wanted, given = features.pair(index)
            total = total + terms.hidden_weight * _hidden(terms.match, wanted, projections[index](given))
        for index in range(len(maps.pairs)):
            total = total + terms.attention_weight * maps.loss(index, inputs)
        return total

    return loss


def _hidden(match: str, wanted: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    if match == "mse":
        return F.mse_loss(given.float(), wanted.float())
    if match == "energy":
        return F.mse_loss(_energy(given.float()), _energy(wanted.float()))
    return F.mse_loss(_relations(given.float()), _relations(wanted.float()))


def _energy(feature: torch.Tensor) -> torch.Tensor:
    """The mean square over the channels at each position, each sample's of length 1: (batch, positions)."""
    axis = channel_axis(feature)
    strong = feature.square().mean(axis).flatten(1) if feature.dim() > 2 else feature.square()
    return F.normalize(strong, dim=1)


def _relations(feature: torch.Tensor) -> torch.Tensor:
    """Cosines between all pairs of positions of each sample: (batch, positions, positions)."""
    axis = channel_axis(feature)
    rows = F.normalize(feature.movedim(axis, -1).flatten(1, -2) if feature.dim() > 2 else feature[None], dim=-1)
    return rows @ rows.transpose(1, 2)
