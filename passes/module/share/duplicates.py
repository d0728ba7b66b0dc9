"""`tie-weights`: equal tensors are stored once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TieWeights:
    """Lets parameters with equal values be one parameter.

    1. Parameters of the same shape and dtype whose bytes are equal become the first of them, by name.
    2. Parameters that the model ties itself are reported under `tied` and left as they are.
    3. Kept apart, with a reason: a parameter with fewer than `least` elements (nothing is saved) is not looked at; one
       that is masked or holds a codebook is refused, since its values are about to change.
    """

    name: ClassVar[str] = "tie-weights"

    least: int = 256

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        del context  # equality needs neither data nor seed
        tied = self._tied(module)
        first: dict[tuple[object, ...], tuple[str, torch.nn.Parameter]] = {}
        merged: dict[str, str] = {}
        refusals: list[Refusal] = []
        for name, parameter in list(module.named_parameters()):
            if parameter.numel() < self.least:
                continue
            if name.endswith("_orig") or ".parametrizations." in f".{name}":
                refusals.append(Refusal(name, "it is masked or holds a codebook, so that its values may still change"))
                continue
            key = (tuple(parameter.shape), parameter.dtype, _digest(parameter))
            if key in first:
                owner, _, attribute = name.rpartition(".")
                setattr(module.get_submodule(owner), attribute, first[key][1])
                merged[name] = first[key][0]
            else:
                first[key] = (name, parameter)
        return module, PassResult(
            changed=len(merged), refusals=tuple(refusals), details={"tied": tied, "merged": merged}
        )

    def _tied(self, module: torch.nn.Module) -> list[list[str]]:
        names: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if parameter.numel() >= self.least:
                names.setdefault(id(parameter), []).append(name)
        return [group for group in names.values() if len(group) > 1]


def _digest(parameter: torch.nn.Parameter) -> str:
    import torch

    raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).hexdigest()
