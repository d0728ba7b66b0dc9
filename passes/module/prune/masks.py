"""Scores of single weights, and masks made from them.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch.nn.utils import prune

from enginery.passes.module.layers import Layers

Criterion = Literal["l1", "l2", "lamp", "random"]
Scores = dict[str, torch.Tensor]


def attach(layers: Layers) -> None:
    """Hang a mask of ones on every layer's weight; `weight` becomes `weight_orig * weight_mask`."""
    for _, layer in layers:
        prune.custom_from_mask(layer, "weight", torch.ones_like(layer.get_parameter("weight")))


def write(layers: Layers, masks: Mapping[str, torch.Tensor]) -> None:
    """Set attached masks. A weight that is masked already stays masked."""
    with torch.no_grad():
        for name, layer in layers:
            mask = layer.get_buffer("weight_mask")
            mask.mul_(masks[name].to(mask.dtype))
            # The hook multiplies at the next forward pass; `weight` should be right before it too.
            layer.weight = layer.get_parameter("weight_orig") * mask


@torch.no_grad()
def scores(layers: Layers, criterion: Criterion, seed: int) -> Scores:
    """The importance of every weight; masked weights score below all others.

    `lamp` divides a squared weight by the sum of all squares in its layer that are not smaller (Lee et al. 2021,
    "Layer-adaptive sparsity for the magnitude-based pruning"), which makes layers of different scale comparable.
    """
    generator = torch.Generator().manual_seed(seed)
    found: Scores = {}
    for name, layer in layers:
        weight = layer.get_parameter("weight_orig")
        if criterion == "random":
            score = torch.rand(weight.shape, generator=generator).to(weight.device)
        elif criterion == "lamp":
            score = _lamp(weight)
        else:
            score = weight.abs().float() ** (1 if criterion == "l1" else 2)
        found[name] = torch.where(layer.get_buffer("weight_mask") > 0, score, torch.full_like(score, -1))
    return found


def _lamp(weight: torch.Tensor) -> torch.Tensor:
    squares = weight.double().square().flatten()
    order = squares.argsort()
    not_smaller = squares[order].flip(0).cumsum(0).flip(0)
    result = torch.empty_like(squares)
    result[order] = squares[order] / not_smaller.clamp_min(torch.finfo(torch.float64).tiny)
    return result.reshape(weight.shape).float()


def by_ratio(scored: Scores, ratio: float, *, pooled: bool) -> Scores:
    """Masks that drop exactly `round(ratio * n)` of the lowest scores, of each layer or of all layers together.

    Ties fall to the weight that comes first, so that the number is exact.
    """
    if not pooled or not scored:
        return {name: _keep(score, ratio) for name, score in scored.items()}
    mask = _keep(torch.cat([score.flatten() for score in scored.values()]), ratio)
    parts = mask.split([score.numel() for score in scored.values()])
    return {name: part.reshape(score.shape) for (name, score), part in zip(scored.items(), parts, strict=True)}


def _keep(score: torch.Tensor, ratio: float) -> torch.Tensor:
    mask = torch.ones(score.numel(), device=score.device)
    order = score.flatten().argsort(stable=True)
    mask[order[: round(ratio * score.numel())]] = 0
    return mask.reshape(score.shape)


def by_threshold(layers: Layers, threshold: float) -> Scores:
    """Masks that drop every weight whose magnitude is below `threshold`."""
    return {name: (layer.get_parameter("weight_orig").abs() >= threshold).float() for name, layer in layers}


def sparsity(layers: Layers) -> dict[str, float]:
    """The fraction of zeros of each layer's mask."""
    return {name: round(1 - float(layer.get_buffer("weight_mask").mean()), 6) for name, layer in layers}
