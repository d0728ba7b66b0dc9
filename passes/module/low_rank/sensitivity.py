"""Ranks by what the answers lose.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch

from enginery.passes.base import Feeds, ModuleContext
from enginery.passes.module.layers import Layers, replace
from enginery.passes.module.low_rank.build import factorized
from enginery.passes.module.low_rank.decompose import Decomposition
from enginery.passes.module.low_rank.ranks import Candidate, by_share
from enginery.passes.module.outputs import Tensors, infer

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a weight's elements at which a layer is tried."""

Losses = dict[str, dict[int, float]]
"""Layer: rank: 1 - mean cosine of the outputs."""


def losses(
    module: torch.nn.Module,
    layers: Layers,
    decompositions: Mapping[str, Decomposition],
    candidates: Mapping[str, Candidate],
    context: ModuleContext,
    probe: int,
) -> Losses:
    """What the outputs lose when one layer alone has each of the tried ranks; the module is as before afterwards."""
    batches = [context.example] if context.batches is None else [feeds for feeds, _ in islice(context.batches(), probe)]
    wanted = [infer(module, feeds) for feeds in batches]
    found: Losses = {}
    for name, layer in layers:
        found[name] = {}
        for share in SHARES:
            rank = by_share({name: candidates[name]}, share)[name]
            if rank in found[name] or candidates[name].size(rank) >= candidates[name].full:
                continue
            replace(module, name, factorized(layer, decompositions[name], rank))
            found[name][rank] = _apart(module, batches, wanted)
            replace(module, name, layer)
    return found


def _apart(module: torch.nn.Module, batches: list[Feeds], wanted: list[Tensors]) -> float:
    cosines: list[torch.Tensor] = []
    for feeds, expected in zip(batches, wanted, strict=True):
        found = infer(module, feeds)
        for name, tensor in expected.items():
            if tensor.is_floating_point() and tensor.dim() > 1:
                a, b = (x.double().flatten(1) for x in (found[name], tensor))
                cosines.append(torch.cosine_similarity(a, b, dim=1).mean())
    return 1 - float(torch.stack(cosines).mean()) if cosines else 0.0


def by_losses(candidates: Mapping[str, Candidate], lost: Losses, budget: float) -> dict[str, int]:
    """Ranks with at most `budget` of all the elements together, at the least sum of losses.

    All layers begin at their smallest tried size; then the step that wins most per element is taken, again and again,
    where a step leads to any larger size of one layer (the lower convex hull of its curve), the whole weight at last.
    A layer that was not tried stays whole. A budget below all the smallest sizes is met as far as they allow.
    """
    limit = budget * sum(c.full for c in candidates.values())
    curves = {name: _hull(candidates[name], ranks) for name, ranks in lost.items()}
    at = dict.fromkeys(candidates, 0)
    spent = sum(curves[name][0][0] for name in candidates)
    while True:
        best: tuple[float, str] | None = None
        for name in sorted(candidates):
            here, *rest = curves[name][at[name] :]
            if not rest or spent + rest[0][0] - here[0] > limit:
                continue
            gain = (here[1] - rest[0][1]) / (rest[0][0] - here[0])
            if best is None or gain > best[0]:
                best = gain, name
        if best is None:
            return {name: curves[name][at[name]][2] for name in candidates}
        name = best[1]
        spent += curves[name][at[name] + 1][0] - curves[name][at[name]][0]
        at[name] += 1


def _hull(candidate: Candidate, ranks: Mapping[int, float]) -> list[tuple[int, float, int]]:
    """(elements, loss, rank) by size, without points above the line between their neighbours."""
    points = [(candidate.size(rank), loss, rank) for rank, loss in sorted(ranks.items())]
    points.append((candidate.full, 0.0, len(candidate.energy)))
    hull: list[tuple[int, float, int]] = []
    for point in points:
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(left: tuple[int, float, int], middle: tuple[int, float, int], right: tuple[int, float, int]) -> bool:
    straight = left[1] + (right[1] - left[1]) * (middle[0] - left[0]) / (right[0] - left[0])
    return middle[1] >= straight
