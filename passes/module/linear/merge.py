"""`merge-linear`: two linear maps in a row become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch

    from enginery.passes.module.layers import Layers


@dataclass(frozen=True)
class MergeLinear:
    """Multiplies out layers between which nothing happens, so that the model computes one instead of two.

    1. `Linear` after `Linear`; a convolution and a 1x1 convolution after it; a 1x1 convolution and any convolution
       after it, provided that the latter pads nothing or the former has no bias (padded zeros pass the bias by).
       Dropout and identities between them do not matter. Longer chains are merged step by step.
    2. Who reads whom is watched in one run on the example: the second must be all that reads the first.
    3. The answers on the example stay as they were; the largest error, relative to the outputs' scale, is reported
       under `proved`. Anything above 1e-4 is an error.
    4. Kept apart, with a reason: a product with more elements than its two factors together (low rank on purpose), an
       output that something else reads too, grouped convolutions, a stride or padding of the inner map that does not
       commute, weights that are masked or shared.
    """

    name: ClassVar[str] = "merge-linear"

    layers: str = ".*"

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        import torch

        from enginery.passes.module.agreement import agreement
        from enginery.passes.module.layers import replace
        from enginery.passes.module.linear.product import product
        from enginery.passes.module.outputs import infer

        module.eval()
        expected = infer(module, context.example)
        merged: dict[str, str] = {}
        layers, refusals = _plain(module, self.layers)
        while True:
            pairs, refused = _pairs(module, layers, context)
            if not pairs:
                break
            giver, reader = pairs[0]
            replace(module, reader, product(module.get_submodule(giver), module.get_submodule(reader)))
            replace(module, giver, torch.nn.Identity())
            merged[giver] = reader
            layers = [(name, module.get_submodule(name)) for name, _ in layers if name != giver]
        details: dict[str, Any] = {"merged": merged}
        if merged:
            details["proved"] = agreement(module, expected, context.example)
        return module, PassResult(changed=len(merged), refusals=(*refusals, *refused), details=details)


def _plain(module: torch.nn.Module, pattern: str) -> tuple[Layers, list[Refusal]]:
    import torch

    from enginery.passes.module.layers import select

    return select(module, pattern, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d))


def _pairs(
    module: torch.nn.Module, layers: Layers, context: ModuleContext
) -> tuple[list[tuple[str, str]], list[Refusal]]:
    """The pairs that can be merged, and why the others in a row cannot."""
    from enginery.passes.module.linear.consumers import links
    from enginery.passes.module.linear.product import obstacle

    pairs: list[tuple[str, str]] = []
    refusals: list[Refusal] = []
    for link in links(module, layers, context.example):
        reason = obstacle(module.get_submodule(link.giver), module.get_submodule(link.reader))
        if reason is None and not link.alone:
            reason = "something else reads its output too"
        if reason is None:
            pairs.append((link.giver, link.reader))
        else:
            refusals.append(Refusal(link.giver, f"not merged into {link.reader}: {reason}"))
    return pairs, refusals
