"""Measures changed copies of a module against the whole one.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from enginery.passes.base import ModuleContext, ModulePass
from enginery.passes.module.advise.advice import Budget, Effect, Proposal, Trials
from enginery.passes.module.advise.ways import Way, by
from enginery.passes.module.figures import Figures, figures
from enginery.passes.module.outputs import infer
from enginery.passes.module.recover import Recover
from enginery.passes.module.training.fake_quantize import fake_quantized
from enginery.passes.spec import format_pass

BITS = 8
RECOVERY_EPOCHS = 5


@dataclass(frozen=True)
class Bench:
    """The whole module with its score and figures, and how changes of it are measured."""

    module: torch.nn.Module
    context: ModuleContext
    score: Callable[[torch.nn.Module], float]
    base: float
    whole: Figures
    trials: Trials | None

    @classmethod
    def of(
        cls,
        module: torch.nn.Module,
        context: ModuleContext,
        score: Callable[[torch.nn.Module], float],
        trials: Trials | None,
    ) -> Bench:
        return cls(module, context, score, score(module), figures(module, context.example), trials)

    def effect(self, way: Way) -> Effect | str:
        """What the way costs and saves, or why the layer does not allow it."""
        changed = way.change(copy.deepcopy(self.module), self.context)
        if isinstance(changed, str):
            return changed
        now = figures(changed, self.context.example)
        small, latency = now.bytes, None
        if way.kind == "int8":
            weight = self.module.get_submodule(way.layer).get_parameter("weight")
            small -= weight.numel() * (weight.element_size() - 1)
        if self.trials is not None:
            latency = self.trials.int8(way.layer) if way.kind == "int8" else self.trials.latency(changed)
        return Effect(
            way.layer,
            way.kind,
            self.base - self.score(changed),
            1 - now.parameters / self.whole.parameters,
            1 - small / self.whole.bytes,
            1 - now.macs / max(self.whole.macs, 1),
            None if latency is None else 1 - latency,
            way.coupled,
        )

    def proposal(self, passes: Sequence[ModulePass], budget: Budget, *, int8: bool) -> Proposal | None:
        """What the passes make, in float or in int8, where it is within the budget of size or time."""
        if not passes and not int8:
            return None
        changed = copy.deepcopy(self.module)
        for one in passes:
            made = by(one)(changed, self.context)
            if isinstance(made, str):
                return None
            changed = made
        now = figures(changed, self.context.example)
        if budget.latency is None and now.macs > budget.macs * self.whole.macs:
            return None
        latency = None if self.trials is None else self.trials.latency(changed, int8=int8)
        if budget.latency is not None and (latency is None or latency > budget.latency):
            return None
        with fake_quantized(changed, BITS if int8 else None):
            lost = self.base - self.score(changed)
        holds = None if budget.max_drop is None else lost <= budget.max_drop
        texts = [format_pass(one) for one in passes]
        if texts and self.context.batches is not None:
            texts.append(format_pass(Recover(epochs=RECOVERY_EPOCHS)))
        shares = (now.macs / max(self.whole.macs, 1), now.parameters / self.whole.parameters)
        return Proposal(tuple(texts), int8, lost, *shares, latency, holds)


def scorer(module: torch.nn.Module, context: ModuleContext) -> tuple[Callable[[torch.nn.Module], float], str]:
    """The recipe's metric; without one, the mean cosine to the module's own outputs on the example. And its name."""
    if context.metric is not None:
        return context.metric, "metric"
    wanted = {name: t.float().flatten(1) for name, t in infer(module, context.example).items() if t.dim() > 1}

    def cosine(candidate: torch.nn.Module) -> float:
        found = infer(candidate, context.example)
        values = [torch.cosine_similarity(found[n].float().flatten(1), t, dim=1).mean() for n, t in wanted.items()]
        return float(torch.stack(values).mean())

    return cosine, "cosine"
