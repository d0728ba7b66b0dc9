"""Which layers of a module a pass works on, and replacing one.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from enginery.errors import PassError
from enginery.passes.base import Refusal
from enginery.passes.module.finish import is_plain

Layers = list[tuple[str, torch.nn.Module]]

CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
WEIGHTED = (torch.nn.Linear, *CONVOLUTIONS)


def select(
    module: torch.nn.Module, pattern: str, kinds: tuple[type[torch.nn.Module], ...] = WEIGHTED
) -> tuple[Layers, list[Refusal]]:
    """Layers of the given kinds whose dotted name matches `pattern` (a regular expression, full match).

    A layer whose weight is masked, parametrized or shared with another layer comes back as a refusal.

    Raises:
        PassError: `pattern` is no regular expression, or matches no layer of these kinds.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise PassError(f"layers={pattern!r} is not a regular expression: {error}") from error
    named = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
    chosen = [(name, layer) for name, layer in named if expression.fullmatch(name)]
    if not chosen:
        names = ", ".join(name for name, _ in named[:8]) or "none"
        kind_names = "/".join(kind.__name__ for kind in kinds)
        raise PassError(f"layers={pattern!r} matches no {kind_names} layer; available: {names}")
    owners = _owners(module)
    layers: Layers = []
    refusals: list[Refusal] = []
    for name, layer in chosen:
        if not is_plain(layer):
            refusals.append(Refusal(name, "its weight is already masked or shared by an earlier pass"))
        elif others := [o for o in owners[id(layer.weight)] if o != f"{name}.weight"]:
            refusals.append(Refusal(name, f"its weight is shared with {', '.join(others)}"))
        else:
            layers.append((name, layer))
    return layers, refusals


def _owners(module: torch.nn.Module) -> dict[int, list[str]]:
    """Names under which each distinct parameter is reachable."""
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return owners


def replace(root: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    """Put `layer` in the place of the submodule `name`."""
    parent, _, child = name.rpartition(".")
    root.get_submodule(parent).register_module(child, layer)


def names(layers: Sequence[tuple[str, torch.nn.Module]]) -> list[str]:
    return [name for name, _ in layers]
