"""Advice: what compressing each layer would cost and save, and a list of passes for a stated budget.

Every figure is measured on a copy of the module, one layer at a time and without training, so a loss is what recovery
starts from and not what remains. MACs stand for latency here; a build's benchmark measures the engine itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Effect:
    """One way to compress one layer: the score it costs, and the shares of the whole module that it saves."""

    layer: str
    way: str
    lost: float
    parameters_saved: float
    macs_saved: float


@dataclass(frozen=True)
class Proposal:
    """Passes that reach the budget, with the score and the figures of the module that they make, before recovery."""

    passes: tuple[str, ...]
    lost: float
    macs: float
    parameters: float


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
    *,
    macs: float = HALF,
    progress: Callable[[int, int | None], None] | None = None,
) -> Advice:
    """Measure every linear and convolution layer, and propose passes that leave `macs` of the multiply-accumulates.

    A layer is pruned to half of its channels, factorized to half of its elements, and its weight rounded to int8 per
    output channel. Ways that a layer refuses do not appear. Without a metric the score is the mean cosine to the
    module's own outputs on the example. Proposals (the least sensitive layers alone, all channels, all weights) come
    best score first; with training data each ends with `recover`.

    Raises:
        UsageError: `macs` is not between 0 and 1.
    """
    if not 0 < macs < 1:
        raise UsageError(f"advise: macs={macs} is out of range; expected between 0 and 1")
    score, by = _scorer(module, context)
    base, whole = score(module), figures(module, context.example)
    trials = list(_trials(module))
    effects: list[Effect] = []
    for done, (layer, way, change) in enumerate(trials, 1):
        changed = change(copy.deepcopy(module), context)
        if changed is not None:
            now = figures(changed, context.example)
            effects.append(Effect(layer, way, base - score(changed), *_saved(whole, now)))
        if progress is not None:
            progress(done, len(trials))
    return Advice(base, by, tuple(effects), tuple(_proposals(module, context, score, base, whole, macs, effects)))


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


def _saved(whole: Figures, now: Figures) -> tuple[float, float]:
    """The shares of parameters and of multiply-accumulates that are gone."""
    return 1 - now.parameters / whole.parameters, 1 - now.macs / max(whole.macs, 1)


def _proposals(
    module: torch.nn.Module,
    context: ModuleContext,
    score: Callable[[torch.nn.Module], float],
    base: float,
    whole: Figures,
    macs: float,
    effects: Sequence[Effect],
) -> list[Proposal]:
    """Whole-module candidates within the budget, the least loss first, at most `MOST`."""
    aware = context.batches is not None
    candidates: list[list[ModulePass]] = [
        _insensitive(effects, macs, aware=aware),
        [PruneChannels(macs=macs)],
        [PruneChannels(macs=macs, scope="layer")],
        *([Factorize(share=round(macs - step / 20, 2), aware=aware)] for step in range(4) if macs - step / 20 > 0),
    ]
    found: dict[tuple[float, float], Proposal] = {}
    for passes in candidates:
        changed = _all_of(passes, copy.deepcopy(module), context)
        if changed is None:
            continue
        now = figures(changed, context.example)
        if now.macs > macs * whole.macs:
            continue
        texts = [format_pass(one) for one in passes]
        if aware:
            texts.append(format_pass(Recover(epochs=RECOVERY_EPOCHS)))
        one = Proposal(tuple(texts), base - score(changed), now.macs / whole.macs, now.parameters / whole.parameters)
        # Two texts that come to the same module are one proposal.
        found.setdefault((one.lost, one.macs), one)
    return sorted(found.values(), key=lambda proposal: proposal.lost)[:MOST]


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
