"""The ways to compress a module one layer at a time, and why some are not open to it.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from enginery.errors import MissingDependencyError, PassError
from enginery.passes.base import ModuleContext, ModulePass
from enginery.passes.module.advise.advice import HALF, Untried
from enginery.passes.module.layers import WEIGHTED
from enginery.passes.module.low_rank.factorize import Factorize
from enginery.passes.module.prune.channels import PruneChannels

SAMPLES = 8
"""Batches that a layer's factors are made from: enough to compare layers by; a listed `factorize` reads more."""

Change = Callable[[torch.nn.Module, ModuleContext], torch.nn.Module | str]
"""Changes a module: the result, or why it stays as it is."""


@dataclass(frozen=True)
class Way:
    layer: str
    kind: str
    change: Change
    coupled: tuple[str, ...] = ()


@dataclass
class Ways:
    """What can be tried, layer by layer, and what cannot."""

    open: list[Way] = field(default_factory=list[Way])
    closed: list[Untried] = field(default_factory=list[Untried])


def ways(module: torch.nn.Module, context: ModuleContext) -> Ways:
    """Prune to half of the channels, factorize to half of the elements, and round to int8, for each layer."""
    found = Ways()
    groups = _groups(module, context, found)
    for name, layer in module.named_modules():
        if not isinstance(layer, WEIGHTED):
            continue
        if name in groups:
            found.open.append(Way(name, "prune", by(halved(groups[name])), groups[name][1:]))
        one = Factorize(share=HALF, layers=re.escape(name), aware=context.batches is not None, samples=SAMPLES)
        found.open.append(Way(name, "factorize", by(one)))
        found.open.append(Way(name, "int8", _rounded(name)))
    return found


def halved(layers: tuple[str, ...]) -> PruneChannels:
    """The pass that takes half of the channels of each of these layers."""
    return PruneChannels(ratio=HALF, scope="layer", round_to=1, layers=alternatives(layers))


def alternatives(layers: tuple[str, ...]) -> str:
    """A pattern that matches exactly these names."""
    return "|".join(map(re.escape, layers))


def by(one: ModulePass) -> Change:
    """The change that a pass makes."""

    def change(module: torch.nn.Module, context: ModuleContext) -> torch.nn.Module | str:
        try:
            changed, result = one.apply(module, context)
        except PassError as error:
            return str(error)
        if result.changed:
            return changed
        return result.refusals[0].reason if result.refusals else "nothing would change"

    return change


def _groups(module: torch.nn.Module, context: ModuleContext, found: Ways) -> dict[str, tuple[str, ...]]:
    """The layers that shrink together, by the first of each group."""
    from enginery.passes.module.prune.dependency import trace

    try:
        dependencies = trace(copy.deepcopy(module), context.example)
    except (PassError, MissingDependencyError) as error:
        found.closed.append(Untried("", "prune", str(error)))
        return {}
    found.closed.extend(Untried(refusal.node, "prune", refusal.reason) for refusal in dependencies.refusals)
    return {group.root: group.members for group in dependencies.groups}


def _rounded(name: str) -> Change:
    """The layer's weight rounded to symmetric int8, one scale for each output channel."""

    def change(module: torch.nn.Module, _context: ModuleContext) -> torch.nn.Module:
        from enginery.passes.module.training.fake_quantize import round_weight

        weight = module.get_submodule(name).get_parameter("weight")
        with torch.no_grad():
            weight.copy_(round_weight(weight, 8))
        return module

    return change
