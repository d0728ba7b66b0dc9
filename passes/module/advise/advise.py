"""The entry: every layer every way, then candidates for the whole.

Every figure is measured on a copy of the module, one layer at a time and without training, so a loss is what recovery
starts from and not what remains. Latencies are those of engines, which the caller builds and times (`Trials`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from enginery.errors import UsageError
from enginery.passes.base import ModuleContext
from enginery.passes.module.advise.advice import Advice, Budget, Effect, Trials, Untried

if TYPE_CHECKING:
    import torch


def advise(
    module: torch.nn.Module,
    context: ModuleContext,
    budget: Budget | None = None,
    *,
    trials: Trials | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Advice:
    """Measure every linear and convolution layer, and propose passes that stay within the budget.

    A layer is pruned to half of its channels, with those that are coupled to it, factorized to half of its elements,
    and its weight rounded to int8 per output channel. Ways that a layer does not allow come back as `untried`, with the
    reason. Without a metric the score is the mean cosine to the module's own outputs on the example. Proposals (the
    least sensitive layers alone, all channels, all weights, and int8 where the budget is of latency) come best score
    first; with training data each that changes the module ends with `recover`. A latency in the budget is reached by
    asking for fewer multiply-accumulates until the measured engine is fast enough.

    Raises:
        UsageError: a budget of latency without `trials` that measure it.
    """
    from enginery.passes.module.advise.bench import Bench, scorer
    from enginery.passes.module.advise.proposals import proposals
    from enginery.passes.module.advise.ways import ways

    budget = budget or Budget()
    if budget.latency is not None and trials is None:
        raise UsageError("advise: a budget of latency was given, and this run measures none; leave it out")
    score, by = scorer(module, context)
    bench = Bench.of(module, context, score, trials)
    found = ways(module, context)
    effects: list[Effect] = []
    for done, way in enumerate(found.open, 1):
        result = bench.effect(way)
        if isinstance(result, str):
            found.closed.append(Untried(way.layer, way.kind, result))
        else:
            effects.append(result)
        if progress is not None:
            progress(done, len(found.open))
    return Advice(bench.base, by, tuple(effects), tuple(found.closed), tuple(proposals(bench, budget, effects)))
