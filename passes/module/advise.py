"""Advice: what compressing each layer would cost and save, and a list of passes for a stated budget.

Every figure is measured on a copy of the module, one layer at a time and without training, so a loss is what recovery
starts from and not what remains. Latencies are those of engines, which the caller builds and times (`Trials`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from enginery.errors import EngineryError, UsageError
from enginery.passes.base import ModuleContext, ModulePass
from enginery.passes.module.figures import Figures, figures
from enginery.passes.module.low_rank.factorize import Factorize
from enginery.passes.module.prune.channels import PruneChannels
from enginery.passes.module.recover import Recover
from enginery.passes.spec import format_pass

if TYPE_CHECKING:
    import torch

HALF = 0.5
RECOVERY_EPOCHS = 5
MOST = 4
"""Proposals that are shown."""


class Trials(Protocol):
    """Builds engines and times them against the whole module's. None: there is no such engine."""

    def latency(self, module: torch.nn.Module) -> float | None:
        """Latency of the changed module's engine over that of the whole one's."""
        ...

    def int8(self, layer: str) -> float | None:
        """The same for the whole module with this layer in int8."""
        ...


@dataclass(frozen=True)
class Budget:
    """What may remain, as shares of the whole: `latency` where it is given and measured, `macs` otherwise.

    `max_drop` is what the score may lose.
    """

    macs: float = HALF
    latency: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("macs", self.macs), ("latency", self.latency)):
            if value is not None and not 0 < value < 1:
                raise UsageError(f"advise: {option}={value} is out of range; expected between 0 and 1")
        if self.max_drop is not None and self.max_drop < 0:
            raise UsageError(f"advise: max_drop={self.max_drop} is out of range; expected 0 or more")


@dataclass(frozen=True)
class Effect:
    """One way to compress one layer: the score it costs, and the shares of the whole module that it saves."""

    layer: str
    way: str
    lost: float
    parameters_saved: float
    bytes_saved: float
    macs_saved: float
    latency_saved: float | None


@dataclass(frozen=True)
class Proposal:
    """Passes that reach the budget, with the score and the figures of the module that they make, before recovery.

    `holds` says whether the score is within the budget without any recovery; None where no drop was stated.
    """

    passes: tuple[str, ...]
    lost: float
    macs: float
    parameters: float
    latency: float | None
    holds: bool | None


@dataclass(frozen=True)
class Advice:
    score: float
    by: str
    effects: tuple[Effect, ...]
    proposals: tuple[Proposal, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def advise(
    module: torch.nn.Module,
    context: ModuleContext,
    budget: Budget | None = None,
    *,
    trials: Trials | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Advice:
    """Measure every linear and convolution layer, and propose passes that stay within the budget.

    A layer is pruned to half of its channels, factorized to half of its elements, and its weight rounded to int8 per
    output channel. Ways that a layer refuses do not appear. Without a metric the score is the mean cosine to the
    module's own outputs on the example. Proposals (the least sensitive layers alone, all channels, all weights) come
    best score first; with training data each ends with `recover`. A latency in the budget is reached by asking for
    fewer multiply-accumulates until the measured engine is fast enough.

    Raises:
        UsageError: a budget of latency without `trials` that measure it.
    """
    budget = budget or Budget()
    if budget.latency is not None and trials is None:
        raise UsageError("advise: a budget of latency was given, and this run measures none; leave it out")
    score, by = _scorer(module, context)
    bench = _Bench(module, context, score, score(module), figures(module, context.example), trials)
    ways = list(_trials(module))
    effects: list[Effect] = []
    for done, (layer, way, change) in enumerate(ways, 1):
        if (effect := bench.effect(layer, way, change)) is not None:
            effects.append(effect)
        if progress is not None:
            progress(done, len(ways))
    return Advice(bench.base, by, tuple(effects), tuple(_proposals(bench, budget, effects)))


@dataclass(frozen=True)
class _Bench:
    """The whole module, and how changes of it are measured."""

    module: torch.nn.Module
    context: ModuleContext
    score: Callable[[torch.nn.Module], float]
    base: float
    whole: Figures
    trials: Trials | None

    def effect(self, layer: str, way: str, change: Change) -> Effect | None:
        changed = change(copy.deepcopy(self.module), self.context)
        if changed is None:
            return None
        now = figures(changed, self.context.example)
        lost, small = self.base - self.score(changed), now.bytes
        if way == "int8":
            latency = None if self.trials is None else self.trials.int8(layer)
            weight = self.module.get_submodule(layer).get_parameter("weight")
            small -= weight.numel() * (weight.element_size() - 1)
        else:
            latency = None if self.trials is None else self.trials.latency(changed)
        return Effect(
            layer,
            way,
            lost,
            1 - now.parameters / self.whole.parameters,
            1 - small / self.whole.bytes,
            1 - now.macs / max(self.whole.macs, 1),
            None if latency is None else 1 - latency,
        )

    def proposal(self, passes: Sequence[ModulePass], budget: Budget) -> Proposal | None:
        """What the passes make, where it is within the budget of size or time."""
        changed = _all_of(passes, copy.deepcopy(self.module), self.context)
        if changed is None:
            return None
        now = figures(changed, self.context.example)
        latency = None if self.trials is None else self.trials.latency(changed)
        if budget.latency is None and now.macs > budget.macs * self.whole.macs:
            return None
        if budget.latency is not None and (latency is None or latency > budget.latency):
            return None
        texts = [format_pass(one) for one in passes]
        if self.context.batches is not None:
            texts.append(format_pass(Recover(epochs=RECOVERY_EPOCHS)))
        lost = self.base - self.score(changed)
        return Proposal(
            tuple(texts),
            lost,
            now.macs / max(self.whole.macs, 1),
            now.parameters / self.whole.parameters,
            latency,
            None if budget.max_drop is None else lost <= budget.max_drop,
        )


Change = Callable[["torch.nn.Module", ModuleContext], "torch.nn.Module | None"]


def _trials(module: torch.nn.Module) -> Iterator[tuple[str, str, Change]]:
    from enginery.passes.module.layers import WEIGHTED

    for name, layer in module.named_modules():
        if not isinstance(layer, WEIGHTED):
            continue
        pattern = re.escape(name)
        yield name, "prune", _by(PruneChannels(ratio=HALF, scope="layer", round_to=1, layers=pattern))
        yield name, "factorize", _by(Factorize(share=HALF, layers=pattern))
        yield name, "int8", _rounded(name)


def _by(one: ModulePass) -> Change:
    def change(module: torch.nn.Module, context: ModuleContext) -> torch.nn.Module | None:
        if isinstance(one, Factorize) and context.batches is None:
            made = replace(one, aware=False)
        else:
            made = one
        try:
            changed, result = made.apply(module, context)
        except EngineryError:
            return None  # this way is not open to this layer; the pass itself says why when a recipe lists it
        return changed if result.changed else None

    return change


def _rounded(name: str) -> Change:
    """The layer's weight rounded to symmetric int8, one scale for each output channel."""

    def change(module: torch.nn.Module, _context: ModuleContext) -> torch.nn.Module:
        import torch

        weight = module.get_submodule(name).get_parameter("weight")
        with torch.no_grad():
            scale = weight.abs().flatten(1).amax(1).clamp_min(1e-12) / 127
            scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
            weight.copy_((weight / scale).round().clamp(-127, 127) * scale)
        return module

    return change


def _scorer(module: torch.nn.Module, context: ModuleContext) -> tuple[Callable[[torch.nn.Module], float], str]:
    if context.metric is not None:
        return context.metric, "metric"
    import torch

    from enginery.passes.module.outputs import infer

    wanted = {name: t.float().flatten(1) for name, t in infer(module, context.example).items() if t.dim() > 1}

    def cosine(candidate: torch.nn.Module) -> float:
        found = infer(candidate, context.example)
        values = [torch.cosine_similarity(found[n].float().flatten(1), t, dim=1).mean() for n, t in wanted.items()]
        return float(torch.stack(values).mean())

    return cosine, "cosine"


def _proposals(bench: _Bench, budget: Budget, effects: Sequence[Effect]) -> list[Proposal]:
    """Whole-module candidates within the budget, the least loss first, at most `MOST`.

    Each family of candidates is asked for ever fewer multiply-accumulates until it is within the budget.
    """
    aware = bench.context.batches is not None
    families: list[Callable[[float], list[ModulePass]]] = [
        lambda macs: _insensitive(effects, macs, aware=aware),
        lambda macs: [PruneChannels(macs=macs)],
        lambda macs: [PruneChannels(macs=macs, scope="layer")],
        lambda macs: [Factorize(share=macs, aware=aware)],
    ]
    found: dict[tuple[float, float], Proposal] = {}
    for family in families:
        for macs in _steps(budget):
            if (one := bench.proposal(family(macs), budget)) is not None:
                # Two texts that come to the same module are one proposal.
                found.setdefault((one.lost, one.macs), one)
                break
    return sorted(found.values(), key=lambda proposal: proposal.lost)[:MOST]


def _steps(budget: Budget) -> list[float]:
    """Shares of multiply-accumulates to try, the largest first: engines save less time than arithmetic, or more."""
    first = budget.macs if budget.latency is None else min(budget.latency + 0.2, 0.95)
    step = 0.05 if budget.latency is None else 0.1
    shares = [round(first - step * i, 2) for i in range(5)]
    return [share for share in shares if share > 0]


def _all_of(passes: Sequence[ModulePass], module: torch.nn.Module, context: ModuleContext) -> torch.nn.Module | None:
    changed: torch.nn.Module | None = module if passes else None
    for one in passes:
        changed = None if changed is None else _by(one)(changed, context)
    return changed


def _insensitive(effects: Sequence[Effect], macs: float, *, aware: bool) -> list[ModulePass]:
    """Halve the layers that lose least for the multiply-accumulates they save, until enough are saved."""
    ways = [effect for effect in effects if effect.way in ("prune", "factorize") and effect.macs_saved > 0]
    ways.sort(key=lambda effect: (max(effect.lost, 0.0) / effect.macs_saved, -effect.macs_saved))
    chosen: dict[str, str] = {}
    left = 1.0
    for effect in ways:
        if left <= macs:
            break
        if effect.layer not in chosen:
            chosen[effect.layer] = effect.way
            # Savings of neighbours overlap: each is taken of what the others left.
            left *= 1 - effect.macs_saved
    pruned, factorized = (
        "|".join(re.escape(layer) for layer, way in chosen.items() if way == wanted)
        for wanted in ("prune", "factorize")
    )
    passes: list[ModulePass] = []
    if pruned:
        passes.append(PruneChannels(ratio=HALF, scope="layer", round_to=1, layers=pruned))
    if factorized:
        passes.append(Factorize(share=HALF, aware=aware, layers=factorized))
    return passes
