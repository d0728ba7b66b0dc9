"""Choosing the rank of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Candidate:
    """A layer that could be factorized: its weight's `out` and `in`, and the energy of each rank, descending."""

    out: int
    width: int
    energy: torch.Tensor

    @property
    def full(self) -> int:
        """Elements of the whole weight."""
        return self.out * self.width

    def size(self, rank: int) -> int:
        """Elements of the two factors, or of the whole weight where they would not be smaller (rank 0: keep whole)."""
        return min(rank * (self.out + self.width), self.full) if rank else self.full


def by_energy(candidates: Mapping[str, Candidate], energy: float) -> dict[str, int]:
    """The least rank that keeps `energy` of each layer's energy."""
    ranks: dict[str, int] = {}
    for name, candidate in candidates.items():
        kept = candidate.energy.cumsum(0) / candidate.energy.sum().clamp_min(1e-300)
        ranks[name] = min(int((kept < energy).sum()) + 1, len(kept))
    return ranks


def by_share(candidates: Mapping[str, Candidate], share: float) -> dict[str, int]:
    """The rank at which each layer's factors have `share` of its weight's elements."""
    return {name: max(1, int(share * c.full / (c.out + c.width))) for name, c in candidates.items()}


def by_budget(candidates: Mapping[str, Candidate], budget: float) -> dict[str, int]:
    """Ranks with at most `budget` of all the elements together, at the least summed relative error.

    Each rank of each layer has a gain (its share of the layer's energy) and a cost (the elements it adds). Energies
    descend, so taking the best gain per element first is optimal up to the last rank. A layer whose factors would
    outgrow its weight stays whole, and what that frees goes to the others.
    """
    limit = budget * sum(c.full for c in candidates.values())
    whole: set[str] = set()
    while True:
        open_ones = {name: c for name, c in candidates.items() if name not in whole}
        ranks = _greedy(open_ones, limit - sum(candidates[name].full for name in whole))
        outgrown = {name for name, rank in ranks.items() if candidates[name].size(rank) >= candidates[name].full}
        if not outgrown:
            return ranks | {name: len(candidates[name].energy) for name in whole}
        whole |= outgrown


def _greedy(candidates: Mapping[str, Candidate], limit: float) -> dict[str, int]:
    ranks = dict.fromkeys(candidates, 1)
    spent = sum(c.out + c.width for c in candidates.values())
    steps = [
        (float(gain) / (c.out + c.width), name, rank)
        for name, c in candidates.items()
        for rank, gain in enumerate((c.energy / c.energy.sum().clamp_min(1e-300)).tolist()[1:], start=2)
    ]
    steps.sort(key=lambda step: (-step[0], step[1], step[2]))
    for _, name, rank in steps:
        cost = candidates[name].out + candidates[name].width
        if spent + cost > limit:
            break
        ranks[name], spent = rank, spent + cost
    return ranks
