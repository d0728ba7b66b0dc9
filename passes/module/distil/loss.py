"""The distillation loss.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name

from enginery.errors import PassError
from enginery.passes.module.distil.features import Features, channel_axis
from enginery.passes.module.distil.maps import Maps
from enginery.passes.module.outputs import Tensors, run
from enginery.passes.module.training.losses import Loss, first


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


def taught_loss(alpha: float, temperature: float, soft: str, task: Loss, teacher: torch.nn.Module) -> Loss:
    """`alpha` times the divergence from the teacher's answers, plus the rest of the task's loss on the labels."""

    def loss(inputs: Tensors, outputs: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            expected = run(teacher, inputs)
        total = alpha * soft_loss(soft, temperature, expected, outputs)
        return total if alpha == 1 else total + (1 - alpha) * task(inputs, outputs, labels)

    return loss


def soft_loss(kind: str, temperature: float, teacher: Tensors, student: Tensors) -> torch.Tensor:
    """`kl` over the last dimension of the first output, `mse` over all outputs, or 1 - `cosine` of the first ones."""
    if kind == "mse":
        errors = [F.mse_loss(student[n].float(), t.float()) for n, t in teacher.items() if t.is_floating_point()]
        return torch.stack(errors).mean()
    wanted, given = first(teacher).float(), first(student).float()
    if wanted.shape != given.shape:
        raise PassError(f"the student's output is {tuple(given.shape)}, the teacher's {tuple(wanted.shape)}")
    if kind == "cosine":
        return (1 - F.cosine_similarity(given, wanted, dim=-1)).mean()
    log_given = F.log_softmax(given / temperature, dim=-1).flatten(0, -2)
    log_wanted = F.log_softmax(wanted / temperature, dim=-1).flatten(0, -2)
    return F.kl_div(log_given, log_wanted, reduction="batchmean", log_target=True) * temperature**2


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
