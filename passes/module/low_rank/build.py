"""The two layers that replace one.

Only loaded by passes that are being applied: it imports torch.
"""

from __future__ import annotations

import torch

from enginery.passes.module.low_rank.decompose import Decomposition


@torch.no_grad()
def factorized(layer: torch.nn.Module, decomposition: Decomposition, rank: int) -> torch.nn.Sequential:
    """`Sequential(thin, wide)` that stands for a linear layer or an ungrouped 2-D convolution at `rank`."""
    weight = layer.get_parameter("weight")
    b, a = decomposition.factors(rank)
    extra = decomposition.bias(weight.flatten(1).double().cpu(), b @ a)
    own = layer.bias if isinstance(layer.bias, torch.Tensor) else None
    bias = extra if own is None else own.double().cpu() + (0 if extra is None else extra)
    has_bias = bias is not None
    if isinstance(layer, torch.nn.Conv2d):
        pair: tuple[torch.nn.Module, torch.nn.Module] = (
            torch.nn.Conv2d(
                layer.in_channels,
                rank,
                layer.kernel_size,  # type: ignore[arg-type]  # two numbers, as Conv2d itself keeps them
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                layer.dilation,  # type: ignore[arg-type]
                bias=False,
                padding_mode=layer.padding_mode,
            ),
            torch.nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias),
        )
    else:
        assert isinstance(layer, torch.nn.Linear)
        pair = (
            torch.nn.Linear(layer.in_features, rank, bias=False),
            torch.nn.Linear(rank, layer.out_features, bias=has_bias),
        )
    thin, wide = (part.to(weight.device, weight.dtype) for part in pair)
    thin.get_parameter("weight").copy_(a.reshape(thin.get_parameter("weight").shape))
    wide.get_parameter("weight").copy_(b.reshape(wide.get_parameter("weight").shape))
    if bias is not None:
        wide.get_parameter("bias").copy_(bias)
    return torch.nn.Sequential(thin, wide).eval()
