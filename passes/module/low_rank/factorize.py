"""`factorize`: a linear layer or convolution becomes two thin ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

    from enginery.passes.module.layers import Layers
    from enginery.passes.module.low_rank.decompose import Decomposition


@dataclass(frozen=True)
class Factorize:
    """Replaces W by B A: `Linear(in, rank)` then `Linear(rank, out)`, or a convolution with `rank` filters then a 1x1.

    1. Exactly one rule sets the ranks: `energy` (the least rank that keeps this share of each layer's energy),
       `share` (each layer keeps this share of its elements), `budget` (all layers together keep this share), or `rank`.
       A budget is spread where it costs least: by each layer's own energy, or, with `by=sensitivity`, by what the
       answers lose. For that each layer alone is factorized to several shares, and the module's outputs on `probe`
       batches (of the training data, or the example) are compared with the whole module's, as 1 - their mean cosine.
    2. `aware=true` minimizes the relative error of each output vector over `samples` batches of the training data and
       lets the bias take over the mean; `aware=false` is the plain SVD of the weight and needs no data.
    3. The output's shape, the bias and every attribute of the convolution but its kernel size stay.
    4. Kept whole, with a reason: a rank at which the two factors are not smaller than the weight, a grouped
       convolution, a padding other than zeros given in numbers (with `aware`), a weight that is shared or masked.
    5. A layer that the module reads by its `weight` instead of calling it would break; the check after each pass
       reports that as an error.
    """

    name: ClassVar[str] = "factorize"

    energy: float | None = None
    share: float | None = None
    budget: float | None = None
    rank: int | None = None
    by: Literal["energy", "sensitivity"] = "energy"
    probe: int = 4
    aware: bool = True
    samples: int = 64
    layers: str = ".*"

    def __post_init__(self) -> None:
        given = [key for key in ("energy", "share", "budget", "rank") if getattr(self, key) is not None]
        if len(given) != 1:
            raise UsageError(f"{self.name}: give exactly one of energy, share, budget, rank; given: {given or 'none'}")
        value = getattr(self, given[0])
        if given[0] == "rank":
            if value < 1:
                raise UsageError(f"{self.name}: rank={value} is out of range; expected 1 or more")
        elif not 0 < value < 1:
            raise UsageError(f"{self.name}: {given[0]}={value} is out of range; expected between 0 and 1")
        if self.by == "sensitivity" and self.budget is None:
            raise UsageError(f"{self.name}: by=sensitivity spreads a budget; give budget")
        for option, value in (("samples", self.samples), ("probe", self.probe)):
            if value < 1:
                raise UsageError(f"{self.name}: {option}={value} is out of range; expected 1 or more")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.layers import replace, select
        from enginery.passes.module.low_rank.build import factorized
        from enginery.passes.module.low_rank.moments import odd_padding

        chosen, refusals = select(module, self.layers, _kinds())
        layers: Layers = []
        for name, layer in chosen:
            if getattr(layer, "groups", 1) > 1:
                refusals.append(Refusal(name, "it is a grouped convolution; its blocks are small already"))
            elif self.aware and (padding := odd_padding(layer)):
                refusals.append(Refusal(name, f"its inputs are not measured: {padding}; aware=false factorizes it"))
            else:
                layers.append((name, layer))
        decompositions = self._decompose(module, layers, context)
        ranks, sizes = self._ranks(module, layers, decompositions, context)
        replaced: dict[str, Any] = {}
        for name, layer in layers:
            rank, energy = ranks[name], decompositions[name].energy
            if sizes[name] >= layer.get_parameter("weight").numel():
                refusals.append(Refusal(name, f"at rank {rank} the two factors are not smaller than the weight"))
                continue
            replace(module, name, factorized(layer, decompositions[name], rank))
            kept = float(energy[:rank].sum() / energy.sum().clamp_min(1e-300))
            replaced[name] = {"rank": rank, "of": len(energy), "energy": round(kept, 6)}
        details = {"aware": self.aware, "layers": replaced}
        return module.eval(), PassResult(changed=len(replaced), refusals=tuple(refusals), details=details)

    def _decompose(self, module: torch.nn.Module, layers: Layers, context: ModuleContext) -> dict[str, Decomposition]:
        from itertools import islice

        from enginery.passes.module.low_rank.decompose import decompose
        from enginery.passes.module.low_rank.moments import collect, within_budget

        if not self.aware:
            return {name: decompose(layer.get_parameter("weight").flatten(1), None) for name, layer in layers}
        batches = context.batches
        if batches is None:
            raise PassError(
                f"{self.name}: aware=true weighs errors by real inputs and was given no data; name `data: training:` "
                "in the recipe, or set aware=false"
            )
        found: dict[str, Decomposition] = {}
        for part in within_budget(layers):
            moments = collect(module, part, (feeds for feeds, _ in islice(batches(), self.samples)))
            for name, layer in part:
                found[name] = decompose(layer.get_parameter("weight").flatten(1), moments.pop(name))
        return found

    def _ranks(
        self,
        module: torch.nn.Module,
        layers: Layers,
        decompositions: dict[str, Decomposition],
        context: ModuleContext,
    ) -> tuple[dict[str, int], dict[str, int]]:
        """The rank of each layer, and the elements that its factors would have."""
        from enginery.passes.module.low_rank.ranks import Candidate, by_budget, by_energy, by_share
        from enginery.passes.module.low_rank.sensitivity import by_losses, losses

        candidates: dict[str, Candidate] = {}
        for name, layer in layers:
            out, width = layer.get_parameter("weight").flatten(1).shape
            candidates[name] = Candidate(out, width, decompositions[name].energy)
        if self.energy is not None:
            ranks = by_energy(candidates, self.energy)
        elif self.share is not None:
            ranks = by_share(candidates, self.share)
        elif self.budget is not None and self.by == "sensitivity":
            lost = losses(module, layers, decompositions, candidates, context, self.probe)
            ranks = by_losses(candidates, lost, self.budget)
        elif self.budget is not None:
            ranks = by_budget(candidates, self.budget)
        else:
            assert self.rank is not None
            ranks = {name: min(self.rank, len(c.energy)) for name, c in candidates.items()}
        return ranks, {name: candidates[name].size(rank) for name, rank in ranks.items()}


def _kinds() -> tuple[type[torch.nn.Module], ...]:
    import torch

    return (torch.nn.Linear, torch.nn.Conv2d)
