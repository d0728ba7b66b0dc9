"""Masks and codebooks that passes hang on a module, and how they become plain parameters again.

While a sequence of passes runs, pruned weights keep their masks (`torch.nn.utils.prune`) and shared weights their
codebooks (`torch.nn.utils.parametrize`), so that training between the passes cannot undo them. `finish` writes
the effective values into ordinary parameters; the export sees nothing but those.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.utils import parametrize, prune


def masked_names(layer: torch.nn.Module) -> list[str]:
    """The parameters of this very layer that `torch.nn.utils.prune` masks."""
    return [name.removesuffix("_mask") for name, _ in layer.named_buffers(recurse=False) if name.endswith("_mask")]


def is_plain(layer: torch.nn.Module, name: str = "weight") -> bool:
    """Whether `layer.<name>` is an ordinary parameter, neither masked nor parametrized."""
    return name in dict(layer.named_parameters(recurse=False))


def plain_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Every distinct parameter as the export would see it: masks applied, codebooks looked up."""
    seen: set[int] = set()
    with torch.no_grad():
        for path, layer in module.named_modules():
            if "parametrizations" in path.split("."):
                continue
            masked = masked_names(layer)
            produced = [f"{name}_orig" for name in masked]
            for name, parameter in layer.named_parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    if name in produced:
                        mask = layer.get_buffer(name.removesuffix("_orig") + "_mask")
                        yield parameter * mask
                    else:
                        yield parameter
            if parametrize.is_parametrized(layer):
                for name in layer.parametrizations:  # type: ignore[union-attr]  # a ModuleDict where is_parametrized
                    yield getattr(layer, name)


def finish(module: torch.nn.Module) -> torch.nn.Module:
    """Write masks and codebooks into plain parameters, in place; returns the module in eval mode."""
    for layer in list(module.modules()):
        for name in masked_names(layer):
            prune.remove(layer, name)
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    return module.eval()
