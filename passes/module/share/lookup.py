"""A weight that is looked up in a codebook while training goes on.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import torch
from torch.nn.utils import parametrize


class Lookup(torch.nn.Module):
    """The parametrization `weight = codebook[indices]`: gradients reach the codebook alone.

    With `zero`, the entry of value zero is held at zero, so that pruned weights stay pruned.
    """

    indices: torch.Tensor
    free: torch.Tensor

    def __init__(self, indices: torch.Tensor, codebook: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("indices", indices)
        self.register_buffer("free", (codebook != 0).to(codebook.dtype))

    def forward(self, codebook: torch.Tensor) -> torch.Tensor:
        return (codebook * self.free)[self.indices]


def share(layer: torch.nn.Module, codebook: torch.Tensor, indices: torch.Tensor) -> None:
    """Replace `layer.weight` by a look-up; `finish` writes the looked-up values back."""
    weight = layer.get_parameter("weight")
    layer.weight = torch.nn.Parameter(codebook.to(weight.device, weight.dtype), requires_grad=weight.requires_grad)
    # `unsafe`: the parametrized weight has another shape than the codebook that stands behind it.
    parametrize.register_parametrization(layer, "weight", Lookup(indices, layer.weight.detach()), unsafe=True)
