"""Candidates for a whole module within a budget.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from enginery.passes.base import ModuleContext, ModulePass
from enginery.passes.module.advise.advice import HALF, Budget, Effect, Proposal
from enginery.passes.module.advise.bench import Bench
from enginery.passes.module.advise.ways import alternatives, halved
from enginery.passes.module.low_rank.factorize import Factorize
from enginery.passes.module.prune.channels import PruneChannels

MOST = 4
"""Proposals that are shown."""

Family = Callable[[float], list[ModulePass]]
"""Passes that leave about this share of the multiply-accumulates."""


def proposals(bench: Bench, budget: Budget, effects: Sequence[Effect]) -> list[Proposal]:
    """Whole-module candidates within the budget, the least loss first, at most `MOST`.

    Each family of candidates is asked for ever fewer multiply-accumulates until it is within the budget. int8 saves
    time and no arithmetic, so it is a candidate where the budget is of latency.
    """
    aware, criterion = bench.context.batches is not None, "taylor" if _labelled(bench.context) else "l2"

    def ranked(macs: float) -> list[ModulePass]:
        return [PruneChannels(macs=macs, criterion=criterion)]

    families: list[Family] = [
        lambda macs: _insensitive(effects, macs, aware=aware),
        ranked,
        lambda macs: [PruneChannels(macs=macs, scope="layer")],
        lambda macs: [Factorize(share=macs, aware=aware)],
    ]
    found = [_first(bench, budget, family, _steps(budget), int8=False) for family in families]
    if budget.latency is not None:
        found.append(bench.proposal([], budget, int8=True))
        found.append(_first(bench, budget, ranked, (0.8, 0.6, 0.4), int8=True))
    # Two texts that come to the same module are one proposal.
    kept = {(one.lost, one.macs, one.int8): one for one in reversed(found) if one is not None}
    return sorted(kept.values(), key=lambda proposal: proposal.lost)[:MOST]


def _labelled(context: ModuleContext) -> bool:
    return context.batches is not None and next((labels is not None for _, labels in context.batches()), False)


def _first(bench: Bench, budget: Budget, family: Family, shares: Sequence[float], *, int8: bool) -> Proposal | None:
    """The first of the family's candidates that is within the budget."""
    tried = (bench.proposal(family(share), budget, int8=int8) for share in shares)
    return next((one for one in tried if one is not None), None)


def _steps(budget: Budget) -> list[float]:
    """Shares of multiply-accumulates to try, the largest first: engines save less time than arithmetic, or more."""
    first = budget.macs if budget.latency is None else min(budget.latency + 0.2, 0.95)
    step = 0.05 if budget.latency is None else 0.1
    shares = [round(first - step * i, 2) for i in range(5)]
    return [share for share in shares if share > 0]


def _insensitive(effects: Sequence[Effect], macs: float, *, aware: bool) -> list[ModulePass]:
    """Halve the layers that lose least for the multiply-accumulates they save, until enough are saved."""
    ways = [effect for effect in effects if effect.way in ("prune", "factorize") and effect.macs_saved > 0]
    ways.sort(key=lambda effect: (max(effect.lost, 0.0) / effect.macs_saved, -effect.macs_saved))
    chosen: dict[str, list[str]] = {"prune": [], "factorize": []}
    left = 1.0
    for effect in ways:
        if left <= macs:
            break
        layers = (effect.layer, *effect.coupled)
        if not any(layer in names for names in chosen.values() for layer in layers):
            chosen[effect.way].extend(layers)
            # Savings of neighbours overlap: each is taken of what the others left.
            left *= 1 - effect.macs_saved
    passes: list[ModulePass] = []
    if pruned := tuple(chosen["prune"]):
        passes.append(halved(pruned))
    if factorized := tuple(chosen["factorize"]):
        passes.append(Factorize(share=HALF, aware=aware, layers=alternatives(factorized)))
    return passes
